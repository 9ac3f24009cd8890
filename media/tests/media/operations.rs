//! Every media operation, on real media: what comes out is looked at by other programs.

mod films;
mod limits;
mod marks;
mod metadata;
mod pictures;
mod refusals;
mod several;
