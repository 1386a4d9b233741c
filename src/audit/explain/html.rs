//! How does the lesson look in a browser?
use super::Lesson;
/// The page.
pub fn page(_lesson: &Lesson) -> String {
    String::new()
}
