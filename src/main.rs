use std::process::ExitCode;

fn main() -> ExitCode {
    // A slot's processes are this program too, and must stay small: they set up nothing of what follows.
    let name = std::env::args_os().nth(1);
    if let Some(stage) = name.as_deref().and_then(|name| name.to_str()).and_then(tool_executor::sandbox::slot::stage) {
        return stage();
    }
    tool_executor::app::main()
}
