use std::process::ExitCode;

fn main() -> ExitCode {
    // A slot's processes are this program too, and must stay small: they set up nothing of what follows.
    let name = std::env::args_os().nth(1);
    let stage = name.as_ref().and_then(|name| name.to_str()).and_then(tool_executor::sandbox::slot::stage);
    if let Some(stage) = stage {
        return stage();
    }
    ExitCode::SUCCESS
}
