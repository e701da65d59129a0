//! Boxes in pixels of the original image.

use serde::{Deserialize, Serialize};

/// A box by its left, top, right and bottom edge in pixels, x right and y down.
///
/// Edges lie between pixels: the box of one whole pixel (x, y) is (x, y, x + 1, y + 1).
/// As JSON it is the list `[x0, y0, x1, y1]`. By default all zeros.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "[f32; 4]", into = "[f32; 4]")]
pub struct BoxXyxy {
    /// Left edge.
    pub x0: f32,
    /// Top edge.
    pub y0: f32,
    /// Right edge.
    pub x1: f32,
    /// Bottom edge.
    pub y1: f32,
}

impl BoxXyxy {
    /// From center and size as fractions of the image, SAM 3's format.
    pub fn from_cxcywh_norm([cx, cy, w, h]: [f32; 4], width: usize, height: usize) -> Self {
        let (width, height) = (width as f32, height as f32);
        Self {
            x0: (cx - 0.5 * w) * width,
            y0: (cy - 0.5 * h) * height,
            x1: (cx + 0.5 * w) * width,
            y1: (cy + 0.5 * h) * height,
        }
    }

    /// Centre and size as fractions of the image; inverse of [`BoxXyxy::from_cxcywh_norm`].
    pub fn to_cxcywh_norm(self, width: usize, height: usize) -> [f32; 4] {
        let (width, height) = (width as f32, height as f32);
        [
            (self.x0 + self.x1) / 2.0 / width,
            (self.y0 + self.y1) / 2.0 / height,
            (self.x1 - self.x0) / width,
            (self.y1 - self.y0) / height,
        ]
    }

    /// Left, top, width and height, as COCO writes boxes.
    pub fn to_xywh(self) -> [f32; 4] {
        [self.x0, self.y0, self.width(), self.height()]
    }

    /// Extent in x; negative when the box is inverted.
    pub fn width(self) -> f32 {
        self.x1 - self.x0
    }

    /// Extent in y; negative when the box is inverted.
    pub fn height(self) -> f32 {
        self.y1 - self.y0
    }

    /// Area in square pixels; 0 for an inverted box.
    pub fn area(self) -> f32 {
        self.width().max(0.0) * self.height().max(0.0)
    }

    /// The part that lies inside an image of this size; empty (zero area) when there is none.
    pub fn clip(self, width: usize, height: usize) -> Self {
        let (width, height) = (width as f32, height as f32);
        Self {
            x0: self.x0.clamp(0.0, width),
            y0: self.y0.clamp(0.0, height),
            x1: self.x1.clamp(0.0, width),
            y1: self.y1.clamp(0.0, height),
        }
    }

    /// Area of the overlap of two boxes.
    pub fn intersection(self, other: Self) -> f32 {
        Self {
            x0: self.x0.max(other.x0),
            y0: self.y0.max(other.y0),
            x1: self.x1.min(other.x1),
            y1: self.y1.min(other.y1),
        }
        .area()
    }

    /// Intersection over union in 0..=1; 0 when both boxes are empty.
    pub fn iou(self, other: Self) -> f32 {
        let intersection = self.intersection(other);
        let union = self.area() + other.area() - intersection;
        if union > 0.0 {
            intersection / union
        } else {
            0.0
        }
    }
}

impl From<[f32; 4]> for BoxXyxy {
    fn from([x0, y0, x1, y1]: [f32; 4]) -> Self {
        Self { x0, y0, x1, y1 }
    }
}

impl From<BoxXyxy> for [f32; 4] {
    fn from(b: BoxXyxy) -> Self {
        [b.x0, b.y0, b.x1, b.y1]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalised_boxes_scale_with_the_image_and_come_back() {
        let b = BoxXyxy::from_cxcywh_norm([0.5, 0.25, 0.5, 0.5], 200, 80);
        assert_eq!(b, BoxXyxy::from([50.0, 0.0, 150.0, 40.0]));
        assert_eq!(b.to_cxcywh_norm(200, 80), [0.5, 0.25, 0.5, 0.5]);
        assert_eq!(b.to_xywh(), [50.0, 0.0, 100.0, 40.0]);
    }

    #[test]
    fn overlap_of_boxes() {
        let a = BoxXyxy::from([0.0, 0.0, 10.0, 10.0]);
        let b = BoxXyxy::from([5.0, 0.0, 15.0, 10.0]);
        assert_eq!(a.intersection(b), 50.0);
        assert_eq!(a.iou(b), 50.0 / 150.0);
        assert_eq!(a.iou(BoxXyxy::from([20.0, 20.0, 30.0, 30.0])), 0.0);
        let empty = BoxXyxy::from([3.0, 3.0, 3.0, 3.0]);
        assert_eq!(empty.iou(empty), 0.0);
    }

    #[test]
    fn an_inverted_box_has_no_area() {
        assert_eq!(BoxXyxy::from([10.0, 10.0, 0.0, 0.0]).area(), 0.0);
    }

    #[test]
    fn clipping_keeps_the_part_inside() {
        let b = BoxXyxy::from([-5.0, 2.0, 30.0, 90.0]).clip(20, 10);
        assert_eq!(b, BoxXyxy::from([0.0, 2.0, 20.0, 10.0]));
        assert_eq!(
            BoxXyxy::from([30.0, 0.0, 40.0, 5.0]).clip(20, 10).area(),
            0.0
        );
    }

    #[test]
    fn json_is_a_list() {
        let b = BoxXyxy::from([1.0, 2.5, 3.0, 4.0]);
        let text = serde_json::to_string(&b).unwrap();
        assert_eq!(text, "[1.0,2.5,3.0,4.0]");
        assert_eq!(serde_json::from_str::<BoxXyxy>(&text).unwrap(), b);
    }
}
