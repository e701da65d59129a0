//! Floor 0: a file becomes a `VarBuilder`.
