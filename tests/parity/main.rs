//! The library against the reference: the same weights, the same inputs, every stage.

mod cancel;
mod click_full_size;
mod clicks;
mod demo;
mod demo_clicks;
mod demo_quality;
mod demo_video;
mod full_size;
mod reference;
mod sam2_full_size;
mod sam31;
mod sam_full_size;
