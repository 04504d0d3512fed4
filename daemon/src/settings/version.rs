//! Which codexd this is.

/// The version, as packages and clients know it.
pub(crate) const NUMBER: &str = env!("CARGO_PKG_VERSION");

/// The version for people: followed by the commit where that is known.
pub(crate) const SHOWN: &str = env!("CODEXD_BUILD_VERSION");

/// Returns the commit that this codexd was built from, where that was known at the build.
pub(crate) fn commit() -> Option<&'static str> {
    Some(env!("CODEXD_BUILD_COMMIT")).filter(|commit| !commit.is_empty())
}
