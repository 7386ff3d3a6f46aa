//! A topic's name: which are allowed, and which two cannot exist side by side.

use std::borrow::Cow;
use std::sync::Arc;

use crate::error::{ErrorCode, Rejection};

/// The longest name in characters: it must fit a file name together with a partition's number.
pub const TOPIC_NAME_CHARS_MAX: usize = 249;

/// Checks a name by itself.
///
/// # Errors
///
/// INVALID_TOPIC_EXCEPTION for a name that is empty, `.` or `..`, longer than
/// [`TOPIC_NAME_CHARS_MAX`], or with a character other than ASCII letters and digits, `.`, `_`, `-`.
pub fn validate(name: &str) -> Result<(), Rejection> {
    let fault = if name.is_empty() {
        "a topic name cannot be empty: name the topic".to_owned()
    } else if name == "." || name == ".." {
        format!("the topic name cannot be `{name}`, which is a directory: choose another name")
    } else if name.chars().count() > TOPIC_NAME_CHARS_MAX {
        format!(
            "the topic name has {} characters: use at most {TOPIC_NAME_CHARS_MAX}",
            name.chars().count()
        )
    } else if let Some(bad) = name.chars().find(|c| !is_allowed(*c)) {
        format!(
            "the topic name `{}` has the illegal character `{}`: use ASCII letters, digits, `.`, \
             `_` and `-`",
            name.escape_debug(),
            bad.escape_debug()
        )
    } else {
        return Ok(());
    };
    Err(Rejection::new(ErrorCode::InvalidTopicException, fault))
}

fn is_allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// What two names have in common that cannot exist side by side: metric names write `.` as `_`, so
/// that `a.b` and `a_b` would be one.
///
/// Since collisions are refused, at most one topic has a given key: the image finds topics by it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct CollisionKey(Arc<str>);

impl CollisionKey {
    /// The key of a name.
    pub(crate) fn of(name: &str) -> Self {
        Self(fold(name).into())
    }
}

impl std::borrow::Borrow<str> for CollisionKey {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// The key of a name as text, without an allocation where the name is its own key.
pub(crate) fn fold(name: &str) -> Cow<'_, str> {
    if name.contains('.') { Cow::Owned(name.replace('.', "_")) } else { Cow::Borrowed(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_at_the_edges() {
        let longest = "x".repeat(249);
        let too_long = "x".repeat(250);
        for (name, allowed) in [
            ("orders", true),
            ("Orders-2.eu_west", true),
            ("...", true),
            (longest.as_str(), true),
            (too_long.as_str(), false),
            ("", false),
            (".", false),
            ("..", false),
            ("a/b", false),
            ("a b", false),
            ("größe", false),
            ("a\0b", false),
        ] {
            let result = validate(name);
            assert_eq!(result.is_ok(), allowed, "{name:?}");
            if let Err(rejection) = result {
                assert_eq!(rejection.code, ErrorCode::InvalidTopicException);
                assert!(rejection.message.contains(": "), "{rejection}");
            }
        }
    }

    #[test]
    fn dots_and_underscores_collide_and_nothing_else() {
        assert_eq!(CollisionKey::of("a.b_c"), CollisionKey::of("a_b.c"));
        assert_ne!(CollisionKey::of("a.b"), CollisionKey::of("a-b"));
        assert_ne!(CollisionKey::of("a.b"), CollisionKey::of("A.b"));
    }
}
