//! A full-size model stops within one layer: `cargo test --release --test parity cancel -- --ignored
//! --nocapture`. Random weights, 4 GB of memory.

use std::time::{Duration, Instant};

use candle_sam3::models::variant;
use candle_sam3::{CancelToken, Error, Image, LoadOptions, Run, Sam3};

/// From the request to the return.
const LIMIT: Duration = Duration::from_millis(300);

#[test]
#[ignore = "builds a full-size SAM 3"]
fn cancel_full_size_sam3() {
    let release = variant::find("sam3").unwrap();
    let model = Sam3::with_random_weights(&release.variant, &LoadOptions::default()).unwrap();
    let image = Image::from_rgb8(1008, 1008, vec![127; 3 * 1008 * 1008]).unwrap();
    let mut worst = Duration::ZERO;
    // At twenty moments of an encoding that takes tens of seconds on two cores.
    for i in 1..=20 {
        let cancel = CancelToken::default();
        let asked = std::thread::spawn({
            let cancel = cancel.clone();
            move || {
                std::thread::sleep(Duration::from_millis(300 * i));
                cancel.cancel();
                Instant::now()
            }
        });
        let mut run = Run {
            cancel: Some(cancel),
            ..Run::default()
        };
        let stopped = model.encode_image(&image, &mut run);
        let took = asked.join().unwrap().elapsed();
        println!("after {} ms: {took:?}", 300 * i);
        assert!(matches!(stopped, Err(Error::Cancelled)));
        worst = worst.max(took);
    }
    assert!(worst <= LIMIT, "{worst:?}");
}
