//! What the parent module promises, as tables.
