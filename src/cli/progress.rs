//! Progress bars for long work: on standard error, and only on a terminal.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a bar is drawn.
const DRAW_HZ: u8 = 8;

/// A bar that counts events.
pub fn events(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
    let template = "{prefix} {wide_bar} {human_pos}/{human_len} events  {per_sec}  {eta} left";
    // The template is a constant that has been seen to work; a bar without it still counts.
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// Moves a bar as a library function reports.
pub fn moving(bar: &ProgressBar) -> impl Fn(u64, u64) + Sync + '_ {
    move |done, total| {
        bar.set_length(total);
        bar.set_position(done);
    }
}

/// A bar that counts the bytes of a file, of a length if that is known, and says more in words.
pub fn import(bytes: Option<u64>) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(bytes, ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
    let template = "import {wide_bar} {bytes}/{total_bytes}  {msg}  {bytes_per_sec}  {eta} left";
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}

/// A bar that counts the bytes of what nobody knows the length of.
pub fn bytes(what: &'static str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(DRAW_HZ));
    if let Ok(style) = ProgressStyle::with_template("{prefix} {spinner} {bytes}  {bytes_per_sec}") {
        bar.set_style(style);
    }
    bar.set_prefix(what);
    bar.enable_steady_tick(Duration::from_secs(1));
    bar
}
