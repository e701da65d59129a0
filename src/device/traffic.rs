//! What goes to a device and comes back.
//!
//! Everything that a model sends to its device and reads from it passes through here and is counted,
//! on the CPU too: a GPU waits for a read, and a read waits for everything before it. `tests/floors`
//! sees that nothing goes another way. Not counted are the weights, and what candle itself sends along
//! with some operations, the sizes and strides of views.

use std::cell::Cell;
use std::ops::Sub;

use candle::{Device, Result, Shape, Tensor, WithDType};

/// What passed between a thread and its devices.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Tensors sent to a device.
    pub uploads: u64,
    /// Their bytes.
    pub uploaded_bytes: u64,
    /// Tensors read from a device; each waits until the device has computed it.
    pub downloads: u64,
    /// Their bytes.
    pub downloaded_bytes: u64,
}

impl Sub for Traffic {
    type Output = Self;

    fn sub(self, earlier: Self) -> Self {
        Self {
            uploads: self.uploads - earlier.uploads,
            uploaded_bytes: self.uploaded_bytes - earlier.uploaded_bytes,
            downloads: self.downloads - earlier.downloads,
            downloaded_bytes: self.downloaded_bytes - earlier.downloaded_bytes,
        }
    }
}

thread_local! {
    static TRAFFIC: Cell<Traffic> = Cell::default();
}

/// What passed between this thread and its devices since the thread began. The difference of two is
/// what passed between them:
///
/// ```no_run
/// # fn work(model: &candle_sam3::Sam3) -> candle_sam3::Result<()> {
/// use candle_sam3::device::traffic;
///
/// let before = traffic();
/// model.encode_text("a dog")?;
/// println!("{} uploads", (traffic() - before).uploads);
/// # Ok(())
/// # }
/// ```
pub fn traffic() -> Traffic {
    TRAFFIC.get()
}

/// Sends values to a device.
pub(crate) fn upload<D: WithDType>(
    values: Vec<D>,
    shape: impl Into<Shape>,
    device: &Device,
) -> Result<Tensor> {
    let all = TRAFFIC.get();
    TRAFFIC.set(Traffic {
        uploads: all.uploads + 1,
        uploaded_bytes: all.uploaded_bytes + size_of_val(&values[..]) as u64,
        ..all
    });
    Tensor::from_vec(values, shape.into(), device)
}

/// Reads all elements of a tensor, by rows.
pub(crate) fn download<D: WithDType>(xs: &Tensor) -> Result<Vec<D>> {
    count_download(xs);
    xs.flatten_all()?.to_vec1()
}

/// [`download`], one list for each entry of the first axis.
pub(crate) fn download_rows<D: WithDType>(xs: &Tensor) -> Result<Vec<Vec<D>>> {
    let rows = xs.dim(0)?;
    if xs.elem_count() == 0 {
        return Ok(vec![vec![]; rows]);
    }
    count_download(xs);
    xs.reshape((rows, ()))?.to_vec2()
}

fn count_download(xs: &Tensor) {
    let all = TRAFFIC.get();
    TRAFFIC.set(Traffic {
        downloads: all.downloads + 1,
        downloaded_bytes: all.downloaded_bytes
            + (xs.elem_count() * xs.dtype().size_in_bytes()) as u64,
        ..all
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_is_counted_on_its_own_thread() -> Result<()> {
        let before = traffic();
        let sent = upload(vec![1f32, 2., 3., 4., 5., 6.], (2, 3), &Device::Cpu)?;
        assert_eq!(download_rows::<f32>(&sent)?, [[1., 2., 3.], [4., 5., 6.]]);
        assert_eq!(download::<f32>(&sent.t()?)?, [1., 4., 2., 5., 3., 6.]);
        std::thread::spawn(|| upload(vec![1u8], 1, &Device::Cpu))
            .join()
            .unwrap()?;
        let want = Traffic {
            uploads: 1,
            uploaded_bytes: 24,
            downloads: 2,
            downloaded_bytes: 48,
        };
        assert_eq!(traffic() - before, want);
        Ok(())
    }

    #[test]
    fn rows_without_elements_are_as_many_as_there_are() -> Result<()> {
        let none = Tensor::zeros((3, 0), candle::DType::F32, &Device::Cpu)?;
        assert_eq!(download_rows::<f32>(&none)?, [[0f32; 0]; 3]);
        Ok(())
    }
}
