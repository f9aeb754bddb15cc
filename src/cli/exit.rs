//! Exit codes: what a script may conclude from a finished command.
//!
//! Law: a code never claims more than is known: 75 is for a write that may have happened.

use std::fmt;
use std::sync::Arc;

use crate::client::{ClientError, Reason};
use crate::server::{ErrorClass, ServerError};
use crate::storage::error::StorageError;
use crate::storage::store::StoreError;

/// The codes, as `--help` lists them.
pub const TABLE: &str = "\
Exit codes:
  0   done
  1   failed, or a check found something wrong
  2   refused by the server; nothing was changed
  3   not now: no node could serve in time, or a queue or account is full; nothing was changed
  64  the command line or the configuration is wrong
  70  the server failed, or gave an answer that makes no sense
  75  it is not known whether the write was applied";

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Failed, or a check found something wrong.
    Failed = 1,
    Refused = 2,
    NotNow = 3,
    Usage = 64,
    Internal = 70,
    Unknown = 75,
}

impl Exit {
    #[must_use]
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The word for this class in `--json` errors.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Exit::Done => "done",
            Exit::Failed => "failed",
            Exit::Refused => "refused",
            Exit::NotNow => "not_now",
            Exit::Usage => "usage",
            Exit::Internal => "internal",
            Exit::Unknown => "unknown",
        }
    }

    /// The exit code of an error, by the first cause that has a class.
    #[must_use]
    pub fn of(error: &anyhow::Error) -> Exit {
        for cause in error.chain() {
            if cause.is::<Usage>() {
                return Exit::Usage;
            }
            // What a running node failed of is shared by all who ask it.
            let shared = cause.downcast_ref::<Arc<ServerError>>().map(AsRef::as_ref);
            if let Some(error) = cause.downcast_ref::<ServerError>().or(shared) {
                return of_server(error);
            }
            if let Some(error) = cause.downcast_ref::<ClientError>() {
                return match error {
                    ClientError::Invalid(_) => Exit::Usage,
                    // There will be room again.
                    ClientError::Rejected { reason: Reason::Full, .. } => Exit::NotNow,
                    ClientError::Rejected { .. } => Exit::Refused,
                    ClientError::NotNow { .. } => Exit::NotNow,
                    ClientError::Unknown { .. } => Exit::Unknown,
                    ClientError::Fatal { .. } => Exit::Internal,
                };
            }
        }
        Exit::Failed
    }
}

fn of_server(error: &ServerError) -> Exit {
    match error.class() {
        ErrorClass::Config | ErrorClass::PortInUse => Exit::Usage,
        ErrorClass::DataDir if is_damage(error) => Exit::Internal,
        ErrorClass::DataDir => Exit::Usage,
        ErrorClass::Fatal => Exit::Internal,
    }
}

/// Whether the data itself is unsound: looking elsewhere or ending another process is no remedy.
fn is_damage(error: &ServerError) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        let of_log = matches!(
            error.downcast_ref(),
            Some(StorageError::Damaged { .. } | StorageError::VoteLost { .. })
        );
        let of_tables = matches!(
            error.downcast_ref(),
            Some(StoreError::Damaged { .. } | StoreError::Codec(_) | StoreError::Load { .. })
        );
        if of_log || of_tables {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The user's mistake on the command line or in the configuration: exit code 64.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn every_class_of_error_has_its_code_even_under_context() {
        let message = || "m".to_owned();
        let refused =
            |reason| ClientError::Rejected { reason, message: message(), retry_after: None };
        let cases: Vec<(anyhow::Error, u8)> = vec![
            (refused(Reason::QueueNotFound).into(), 2),
            (refused(Reason::LimitReached).into(), 2),
            (refused(Reason::Full).into(), 3),
            (ClientError::NotNow { message: message(), retry_after: None }.into(), 3),
            (ClientError::Unknown { message: message() }.into(), 75),
            (ClientError::Fatal { message: message() }.into(), 70),
            (ClientError::Invalid(message()).into(), 64),
            (Usage(message()).into(), 64),
            (anyhow::anyhow!("other"), 1),
            (Arc::new(ServerError::MayNotJoin { source: "wiped".into() }).into(), 64),
            (Arc::new(ServerError::Fatal { doing: "a task", source: "ended".into() }).into(), 70),
        ];
        for (error, code) in cases {
            let text = format!("{error:?}");
            let wrapped = Err::<(), _>(error).context("while sending").expect_err("an error");
            assert_eq!(Exit::of(&wrapped).code(), code, "{text}");
            assert!(code == 1 || TABLE.contains(&format!("\n  {code} ")), "{code} is documented");
        }
    }
}
