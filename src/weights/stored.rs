//! Every tensor of a file, also those that no module asks for.

use super::Checkpoint;
use super::layout::Table;
use super::names::matches;

/// A tensor as a file keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// What the file calls it.
    pub name: String,
    /// What modules ask for that is made of it, by official names. Empty if nobody ever asks: a
    /// buffer that is computed when the model is built, a counter of training, a tied copy.
    pub asked: Vec<String>,
    /// Its shape in the file.
    pub shape: Vec<usize>,
    /// Its element type as safetensors spells it, as in "F32".
    pub dtype: String,
    /// The bytes that its elements take.
    pub bytes: usize,
}

impl Stored {
    /// The number of elements.
    pub fn elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Checkpoint {
    /// Every tensor of the file, and after them those that [`Checkpoint::with_part`] supplies.
    pub fn stored(&self) -> Vec<Stored> {
        let table = Table::new(self.layout());
        let stored = self.tensors_as_stored().iter().map(|tensor| Stored {
            asked: table.asked(&tensor.name).map_or(vec![], |a| a.names),
            name: tensor.name.clone(),
            shape: tensor.shape.clone(),
            dtype: tensor.dtype.to_string(),
            bytes: tensor.elements() * tensor.dtype.bitsize() / 8,
        });
        let mut stored: Vec<_> = stored.collect();
        for (prefix, other) in self.parts() {
            let is_supplied = |tensor: &Stored| {
                let mut asked = tensor.asked.iter();
                asked.any(|name| matches(name, prefix).is_some() && !self.holds(name))
            };
            stored.extend(other.stored().into_iter().filter(is_supplied));
        }
        stored
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::DType;

    #[test]
    fn what_nobody_asks_for_is_listed_too() {
        let list = [
            ("trunk.blocks.0.attn.freqs_cis", vec![576, 32]),
            ("backbone.x.weight", vec![3, 2]),
        ];
        let list = list.map(|(name, shape)| (name.to_string(), shape, DType::F32));
        let checkpoint = Checkpoint::from_shapes(list).unwrap();
        let got = checkpoint.stored();
        assert_eq!(got.len(), 2);
        assert_eq!((got[0].elements(), got[0].bytes), (18432, 4 * 18432));
        assert!(got[0].asked.is_empty());
        assert_eq!(got[1].asked, ["detector.backbone.x.weight"]);
        assert_eq!(got[1].dtype, "F32");

        let other = ["geometry_encoder.w", "transformer.w"];
        let other = other.map(|name| (name.to_string(), vec![1], DType::F16));
        let other = Checkpoint::from_shapes(other).unwrap();
        let whole = checkpoint.with_part("detector.geometry_encoder", &other);
        let got = whole.unwrap().stored();
        assert_eq!(got.len(), 3);
        assert_eq!((&*got[2].name, got[2].bytes), ("geometry_encoder.w", 2));
    }
}
