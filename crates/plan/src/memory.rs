//! How much memory there is to take.

use std::fs;

/// Used where the system does not tell how much memory is free.
const UNKNOWN_MEMORY: u64 = 4 << 30;

/// Bytes of memory that this process can still take, where the system tells: the least of what is free, what its control group
/// allows, and what is left of its address space (`ulimit -v`).
pub fn free_memory() -> Option<u64> {
    [system(), control_group(), address_space()].into_iter().flatten().min()
}

/// Half of the memory that is free now, in bytes.
pub fn memory_budget() -> u64 {
    free_memory().unwrap_or(UNKNOWN_MEMORY) / 2
}

fn system() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemAvailable:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? * 1024)
}

/// What version 2 of the control groups leaves; pages of files can be given back.
fn control_group() -> Option<u64> {
    let own = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = own.lines().find_map(|l| l.strip_prefix("0::"))?;
    let folder = format!("/sys/fs/cgroup{}", path.trim_end_matches('/'));
    let number = |file: &str| fs::read_to_string(format!("{folder}/{file}")).ok()?.trim().parse::<u64>().ok();
    let files = fs::read_to_string(format!("{folder}/memory.stat")).ok();
    let files =
        files.and_then(|s| s.lines().find_map(|l| l.strip_prefix("inactive_file ")?.parse::<u64>().ok()));
    let used = number("memory.current")?.saturating_sub(files.unwrap_or(0));
    Some(number("memory.max")?.saturating_sub(used))
}

/// What the limit of the address space leaves.
fn address_space() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|l| l.strip_prefix("Max address space"))?;
    let limit = line.split_whitespace().next()?.parse::<u64>().ok()?;
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let size = status.lines().find_map(|l| l.strip_prefix("VmSize:"))?;
    Some(limit.saturating_sub(size.split_whitespace().next()?.parse::<u64>().ok()? * 1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_budget() {
        assert!(memory_budget() > 0);
    }
}
