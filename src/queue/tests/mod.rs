//! Tests of the whole room: a stage that plays the table writer, a naive model to compare with,
//! random runs, transcripts, bounds and refusals.

mod bounds;
mod bounds_jobs;
mod model;
mod model_jobs;
mod random;
mod refusals;
mod stage;
mod transcripts;
