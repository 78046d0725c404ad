//! Toolsets: names for groups of tools, as the old system had them. A toolset may have members that this build does
//! not have: they are known names without effect, so that one configuration serves every version.

/// No such toolset or tool.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no toolset {name:?}; there are {}", NAMES.join(", "))]
pub struct UnknownToolset {
    pub name: String,
}

/// What a toolset has. Tools that run elsewhere belong to `all` (and so to `full`) alone.
enum Members {
    Everything,
    Of(&'static [&'static str]),
}

/// Every toolset, `*` aside.
pub(super) const NAMES: [&str; 7] =
    ["filesystem", "terminal", "terminal_stateful", "sandbox", "default", "full", "all"];

fn members(toolset: &str) -> Option<Members> {
    Some(match toolset {
        "filesystem" => Members::Of(&["read_file", "write_file"]),
        "terminal" => Members::Of(&["terminal", "process"]),
        "terminal_stateful" => Members::Of(&["terminal_stateful", "tmux"]),
        "sandbox" | "default" => Members::Of(&["terminal", "process", "read_file", "write_file"]),
        "full" | "all" | "*" => Members::Everything,
        _ => return None,
    })
}

/// The toolsets that have this tool.
pub(super) fn toolsets_of(tool: &str) -> Vec<&'static str> {
    NAMES.into_iter().filter(|toolset| contains(toolset, tool)).collect()
}

/// Whether the toolset has this tool; a toolset that there is not has none.
pub(super) fn contains(toolset: &str, tool: &str) -> bool {
    match members(toolset) {
        Some(Members::Everything) => true,
        Some(Members::Of(tools)) => tools.contains(&tool),
        None => false,
    }
}

/// Refuses names that no toolset has.
pub(super) fn check<'a>(names: impl IntoIterator<Item = &'a String>) -> Result<(), UnknownToolset> {
    match names.into_iter().find(|name| members(name).is_none()) {
        Some(name) => Err(UnknownToolset { name: name.chars().take(64).collect() }),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn toolsets_of_each_tool() {
        assert_eq!(toolsets_of("terminal"), ["terminal", "sandbox", "default", "full", "all"]);
        assert_eq!(toolsets_of("read_file"), ["filesystem", "sandbox", "default", "full", "all"]);
        assert_eq!(toolsets_of("tmux"), ["terminal_stateful", "full", "all"]);
        assert_eq!(toolsets_of("bash"), ["full", "all"]);
        assert!(contains("*", "anything"));
    }

    #[test]
    fn an_unknown_name_is_refused() {
        assert_eq!(check(&["full".to_owned(), "*".to_owned()]), Ok(()));
        let error = check(&["browser".to_owned()]).unwrap_err();
        assert!(error.to_string().contains("\"browser\"") && error.to_string().contains("terminal_stateful"));
    }
}
