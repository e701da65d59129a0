//! Slots: which objects share a memory.
//!
//! A bucket is what one pass of the network answers: one object in SAM 2.1 and SAM 3, up to 16 in
//! SAM 3.1. Memories have a row for each bucket, pointers a row for each slot.
//!
//! Follows `MultiplexState`,
//! <https://github.com/facebookresearch/sam3/blob/96914d2/sam3/model/multiplex_utils.py#L28>.
//!
//! # Easy to get wrong
//! - Slots are not alike, each has embeddings of its own: an object never moves to another one.
//! - The slot of a removed object stays empty; a bucket goes when its last object does.

use candle::{Result, Tensor};
use serde::{Deserialize, Serialize};

use crate::device::upload;

/// The slots of objects that are tracked together. Objects are counted from 0, without those that
/// were removed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slots {
    width: usize,
    /// Bucket and slot of each object.
    places: Vec<(usize, usize)>,
    /// Of each bucket, how many of its slots were ever given out.
    used: Vec<usize>,
}

impl Slots {
    /// No objects, and buckets of `width` slots.
    pub fn new(width: usize) -> Self {
        Self {
            width,
            places: vec![],
            used: vec![],
        }
    }

    /// The slots of `objects` that came one after the other.
    pub fn of(width: usize, objects: usize) -> Self {
        let mut slots = Self::new(width);
        (0..objects).for_each(|_| slots.add());
        slots
    }

    /// Slots of a bucket.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Buckets there are.
    pub fn buckets(&self) -> usize {
        self.used.len()
    }

    /// Slots that were never given out, in the buckets there are.
    pub fn free(&self) -> usize {
        self.used.iter().map(|used| self.width - used).sum()
    }

    /// Bucket and slot of each object.
    pub fn places(&self) -> &[(usize, usize)] {
        &self.places
    }

    /// Gives the next object the first free slot.
    pub fn add(&mut self) {
        let bucket = self.used.iter().position(|used| *used < self.width);
        let bucket = bucket.unwrap_or_else(|| {
            self.used.push(0);
            self.used.len() - 1
        });
        self.places.push((bucket, self.used[bucket]));
        self.used[bucket] += 1;
    }

    /// Takes an object out. The buckets that are left.
    pub fn remove(&mut self, object: usize) -> Vec<u32> {
        self.places.remove(object);
        let is_left = |bucket: &usize| self.places.iter().any(|(b, _)| b == bucket);
        let left: Vec<usize> = (0..self.used.len()).filter(is_left).collect();
        self.used = left.iter().map(|bucket| self.used[*bucket]).collect();
        for (bucket, _) in &mut self.places {
            *bucket = left.partition_point(|other| other < bucket);
        }
        left.into_iter().map(|bucket| bucket as u32).collect()
    }

    /// The row of an object among the slots of all buckets.
    pub fn row(&self, object: usize) -> usize {
        let (bucket, slot) = self.places[object];
        bucket * self.width + slot
    }

    /// One row (n, …) for each object -> one for each slot (buckets * width, …), zeros where there
    /// is no object.
    ///
    /// # Errors
    /// If there are more or fewer rows than objects.
    pub fn fill(&self, rows: &Tensor) -> Result<Tensor> {
        let n = rows.dim(0)?;
        if n != self.places.len() {
            candle::bail!("{n} rows for {} objects", self.places.len());
        }
        let mut sources = vec![n as u32; self.buckets() * self.width];
        for object in 0..n {
            sources[self.row(object)] = object as u32;
        }
        let none = rows.narrow(0, 0, 1)?.zeros_like()?;
        let sources = upload(sources, self.buckets() * self.width, rows.device())?;
        Tensor::cat(&[rows, &none], 0)?.index_select(&sources, 0)
    }

    /// One row for each slot (buckets * width, …) -> one for each object (n, …), of several tensors on
    /// one device.
    ///
    /// # Errors
    /// If there are fewer rows than slots.
    pub fn pick<const N: usize>(&self, of_slots: [&Tensor; N]) -> Result<[Tensor; N]> {
        let Some(first) = of_slots.first() else {
            return Ok(of_slots.map(Tensor::clone));
        };
        let picked = (0..self.places.len()).map(|object| self.row(object) as u32);
        let picked = upload(picked.collect(), self.places.len(), first.device())?;
        let mut of_objects = of_slots.map(Tensor::clone);
        for rows in &mut of_objects {
            *rows = rows.contiguous()?.index_select(&picked, 0)?;
        }
        Ok(of_objects)
    }

    /// Whether these can be the slots of so many objects in buckets of `width`.
    pub fn is_sound(&self, width: usize, objects: usize) -> bool {
        let mut places = self.places.clone();
        places.sort_unstable();
        places.dedup();
        let is_used = |(bucket, slot): &(usize, usize)| {
            self.used.get(*bucket).is_some_and(|used| slot < used)
        };
        self.width == width
            && self.places.len() == objects
            && places.len() == objects
            && places.iter().all(is_used)
            && self.used.iter().all(|used| *used <= width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle::Device;

    #[test]
    fn objects_fill_a_bucket_and_then_the_next() {
        let slots = Slots::of(16, 17);
        assert_eq!((slots.buckets(), slots.free()), (2, 15));
        assert_eq!((slots.places()[15], slots.places()[16]), ((0, 15), (1, 0)));
        assert_eq!(slots.row(16), 16);
        assert!(slots.is_sound(16, 17) && !slots.is_sound(16, 16) && !slots.is_sound(8, 17));
    }

    #[test]
    fn a_slot_is_not_given_out_again_and_an_empty_bucket_goes() {
        let mut slots = Slots::of(2, 5); // 0 1 | 2 3 | 4
        assert_eq!(slots.remove(0), [0, 1, 2]);
        assert_eq!(slots.free(), 1); // of the last bucket, not the one that was left
        assert_eq!(slots.remove(0), [1, 2]);
        assert_eq!(slots.places(), [(0, 0), (0, 1), (1, 0)]);
        slots.add();
        assert_eq!(slots.places()[3], (1, 1));
        assert!(slots.is_sound(2, 4));
    }

    #[test]
    fn rows_go_to_their_slots_and_come_back() -> Result<()> {
        let mut slots = Slots::of(2, 3);
        slots.remove(0);
        let rows = Tensor::new(&[[1f32], [2.]], &Device::Cpu)?;
        let filled = slots.fill(&rows)?;
        assert_eq!(filled.to_vec2::<f32>()?, [[0.], [1.], [2.], [0.]]);
        let [picked, doubled] = slots.pick([&filled, &(&filled * 2.)?])?;
        assert_eq!(picked.to_vec2::<f32>()?, rows.to_vec2::<f32>()?);
        assert_eq!(doubled.to_vec2::<f32>()?, [[2.], [4.]]);
        assert!(slots.fill(&filled).is_err());
        Ok(())
    }
}
