//! What a user can type.

use clap::{ArgAction, Parser, Subcommand};

use crate::bench::BenchArgs;
use crate::concept::{Action, ConceptArgs};
use crate::convert::ConvertArgs;
use crate::eval::EvalArgs;
use crate::everything::EverythingArgs;
use crate::inspect::InspectArgs;
use crate::label::{LabelArgs, MergeArgs};
use crate::models::ModelsArgs;
use crate::segment::SegmentArgs;
use crate::track::TrackArgs;
use crate::verify::VerifyArgs;

/// More than any machine has would end in an abort of the process.
pub const MAX_THREADS: u16 = 1024;

/// Promptable segmentation with SAM 3, EfficientSAM3 and SAM3-LiteText
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,

    /// Print errors only
    #[arg(short, long, global = true)]
    pub quiet: bool,

    /// Say more about what happens; twice for everything
    #[arg(short, long, global = true, action = ArgAction::Count, conflicts_with = "quiet")]
    pub verbose: u8,
}

#[derive(Subcommand)]
pub enum Command {
    /// Find every object that a text or an example box means, or the one that is clicked
    ///
    /// Examples:
    ///   sam3 segment photo.jpg --text wheel -m sam3.pt
    ///   sam3 segment photo.jpg --text "a dog, a red ball" -m sam3.pt -o found
    ///   sam3 segment photo.jpg --exemplar 40,60,120,180 -m sam3.pt --format json
    ///   sam3 segment photo.jpg --point 320,180 --point 300,60,0 -m sam_vit_b_01ec64.pth
    ///   sam3 segment photo.jpg --box 40,60,120,180 --box 200,60,280,180 -m mobile_sam.pt
    #[command(verbatim_doc_comment)]
    Segment(Box<SegmentArgs>),

    /// Find everything, without a prompt
    ///
    /// Examples:
    ///   sam3 everything photo.jpg -m mobile_sam.pt
    ///   sam3 everything photo.jpg -m mobile_sam.pt --points-per-side 16 --format amg,coco
    ///   sam3 everything photo.jpg -m sam3.pt --crop-n-layers 1 --min-mask-region-area 100
    #[command(verbatim_doc_comment)]
    Everything(Box<EverythingArgs>),

    /// Keep what example boxes show in a file, to look for it in other pictures
    Concept(ConceptArgs),

    /// Label folders of pictures with words, for training and annotation tools
    ///
    /// Examples:
    ///   sam3 label photos --text "car, person" -m sam3.pt -o out --format yolo
    ///   sam3 label photos --text "car:0.4, dog|puppy:0.6:10" -m sam3.pt -o out --format coco,csv --resume
    ///   sam3 label photos --everything -m mobile_sam.pt -o out --format coco,cutout
    ///   sam3 label photos --everything --classify "person, car, road, sky" -m mobile_sam.pt -o out
    ///   find photos -name '*.jpg' | sam3 label - --classes classes.toml -m sam3.pt -o out --shard 0/8
    #[command(verbatim_doc_comment)]
    Label(Box<LabelArgs>),

    /// Join the parts of a data set that were labeled with `label --shard`
    Merge(MergeArgs),

    /// Follow objects through a video
    ///
    /// Examples:
    ///   sam3 track clip.gif --text "red star"
    ///   sam3 track clip.mp4 --text "a dog" -m sam3.pt --format mp4,youtube-vis
    ///   sam3 track frames --point 0:320,180 -m sam3.pt --format davis,masks -o tracked
    ///   sam3 track clip.mp4 --box 1@0:40,60,120,180 --point 2@12:300,60 -m sam3.pt
    #[command(verbatim_doc_comment)]
    Track(Box<TrackArgs>),

    /// Score results, or a model, against a ground truth
    ///
    /// Examples:
    ///   sam3 eval --coco instances.json --predictions results.json --metrics ap,boundary-ap
    ///   sam3 eval --coco instances.json --images photos -m sam3.pt --json figures.json
    ///   sam3 eval --saco gold_a.json,gold_b.json,gold_c.json --predictions results.json
    ///   sam3 eval --coco instances.json --images photos -m mobile_sam.pt --metrics box-miou,click-miou
    #[command(verbatim_doc_comment)]
    Eval(Box<EvalArgs>),

    /// Serve the page and the HTTP API
    ///
    /// Examples:
    ///   sam3 serve --open
    ///   sam3 serve -m sam3.pt --port 9000
    ///   sam3 serve -m mobile_sam.pt --host 0.0.0.0 --token "$TOKEN"
    #[cfg(feature = "server")]
    #[command(verbatim_doc_comment)]
    Serve(Box<crate::serve::ServeArgs>),

    /// List the models that `-m` knows by name, and download them
    ///
    /// Examples:
    ///   sam3 models
    ///   sam3 models fetch mobile-sam sam3-litetext-s0
    #[command(verbatim_doc_comment)]
    Models(ModelsArgs),

    /// Tell what a weight file holds, part by part, and whether it can be used
    Inspect(InspectArgs),

    /// Write weights as safetensors under official names
    ///
    /// Examples:
    ///   sam3 convert sam3.pt sam3.safetensors --dtype bf16
    ///   sam3 convert efficient_sam3.pth small.safetensors --prune
    ///   sam3 convert stage3.pt whole.safetensors --geometry sam3.pt
    #[command(verbatim_doc_comment)]
    Convert(ConvertArgs),

    /// Measure how fast a model runs on this machine, stage by stage
    ///
    /// Examples:
    ///   sam3 bench --random-weights efficientsam3-rv-m
    ///   sam3 bench --random-weights sam3 --device cuda --dtype bf16 --json before.json
    ///   sam3 bench -m sam3.pt --image photo.jpg --compare before.json --tolerance 1.1
    #[command(verbatim_doc_comment)]
    Bench(Box<BenchArgs>),

    /// Compare a model with a recorded run of the official code, stage by stage
    ///
    /// Examples:
    ///   sam3 verify -m sam3.pt --reference sam3.reference.safetensors
    ///   sam3 verify -m sam3.pt --reference sam3.reference.safetensors --device cuda --dtype bf16
    #[command(verbatim_doc_comment)]
    Verify(Box<VerifyArgs>),
}

impl Command {
    /// The number of threads that was asked for.
    pub fn threads(&self) -> Option<u16> {
        let model = match self {
            Self::Segment(args) => &args.model,
            Self::Everything(args) => &args.model,
            Self::Label(args) => &args.model,
            Self::Concept(args) => {
                let Action::Save(args) = &args.action;
                &args.model
            }
            Self::Track(args) => &args.model,
            Self::Eval(args) => &args.model,
            Self::Bench(args) => &args.model,
            #[cfg(feature = "server")]
            Self::Serve(args) => &args.model,
            Self::Verify(args) => &args.model,
            Self::Merge(_) | Self::Models(_) | Self::Inspect(_) | Self::Convert(_) => return None,
        };
        model.threads
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_together() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
