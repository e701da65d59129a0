//! Floor 1: words to tokens to features.
