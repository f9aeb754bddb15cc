//! Tests of the whole room: a stage that plays the table writer, a naive model to compare with,
//! random runs, transcripts, bounds and refusals, and two regions beside each other.

mod bounds;
mod bounds_jobs;
mod leases;
mod model;
mod model_jobs;
mod old_copies;
mod pair;
mod random;
mod refusals;
mod region_limits;
mod region_runs;
mod region_transcripts;
mod regions;
mod reseeds;
mod resumed_seeds;
mod stage;
mod survey;
mod tails;
mod transcripts;
