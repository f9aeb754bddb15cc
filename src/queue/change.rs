//! Noting what an entry changed.

use super::command::Content;
use super::ids::ContentId;
use super::outcome::{Changes, ContentEvent};
use super::rows::RowKey;

impl Changes {
    /// Names a changed row. One named twice in a row is kept once; the table writer drops the
    /// other repeats.
    pub(super) fn row(&mut self, key: RowKey) {
        if self.rows.last() != Some(&key) {
            self.rows.push(key);
        }
    }

    pub(super) fn put(&mut self, id: ContentId, content: &Content) {
        self.contents.push(ContentEvent::Put(id, content.clone()));
    }

    pub(super) fn drop_content(&mut self, id: ContentId) {
        self.contents.push(ContentEvent::Drop(id));
    }
}
