//! Validation that all kinds share.

use super::{Errors, FieldError, Path, Resource, Spec};

impl<S: Spec> Resource<S> {
    /// Checks everything that upstream's validation checks.
    ///
    /// # Errors
    /// Everything that is wrong, each with its path.
    pub fn validate(&self) -> Result<(), Vec<FieldError>> {
        let mut errors = Errors::default();
        let metadata = Path::Root.key("metadata");
        errors.require(
            !self.metadata.name.is_empty() || !self.metadata.generate_name.is_empty(),
            &metadata.key("name"),
            "required, but missing",
        );
        errors.require(
            S::KIND.is_namespaced() || self.metadata.namespace.is_empty(),
            &metadata.key("namespace"),
            format!("{} is cluster-wide; remove the namespace", S::KIND),
        );
        self.spec.validate(&self.metadata, &mut errors);
        errors.into_result()
    }
}
