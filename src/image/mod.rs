//! Floor 0: pixels. Decoding, resizing, and the transform into a model's input.
