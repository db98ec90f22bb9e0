//! Large arrays that there may be no memory for.

/// Values of zero; `None` if the system does not give the memory.
pub fn try_zeroed<T: Default + Clone>(len: usize) -> Option<Vec<T>> {
    // Asked for first, since `vec!` would end the program; its zeros are mapped only as they are written.
    let mut probe = Vec::<T>::new();
    probe.try_reserve_exact(len).ok()?;
    drop(probe);
    Some(vec![T::default(); len])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_no_machine_has_is_refused_and_not_fatal() {
        assert_eq!(try_zeroed::<u16>(3), Some(vec![0; 3]));
        assert_eq!(try_zeroed::<f64>(1 << 58), None);
    }
}
