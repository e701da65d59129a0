//! Files of the kinds that people bring, good and bad: each ends soon and small, with the right
//! answer or with words that help.

mod memory;
mod mutations;
mod pictures;
mod weights;

use std::time::Duration;

use assert_cmd::Command;

/// `sam3` within 5 seconds of processor time, which others on the machine do not use up, and 1 GB of
/// address space.
fn limited() -> Command {
    let mut command = Command::new("sh");
    command
        .args(["-c", "ulimit -t 5; ulimit -v 1048576; exec \"$0\" \"$@\""])
        .arg(assert_cmd::cargo::cargo_bin("sam3"))
        .timeout(Duration::from_secs(120));
    command
}
