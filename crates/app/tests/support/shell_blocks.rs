/// The commands in the blocks of a Markdown text that are marked as `sh`, one per line, without comments.
pub(crate) fn shell_commands(markdown: &str) -> Vec<String> {
    let mut inside = false;
    let mut commands = vec![];
    for line in markdown.lines() {
        let line = line.trim();
        if line.starts_with("```") {
            inside = line == "```sh";
        } else if inside {
            let command = line.split(" #").next().unwrap_or(line).trim();
            if !command.is_empty() && !command.starts_with('#') {
                commands.push(command.to_owned());
            }
        }
    }
    commands
}
