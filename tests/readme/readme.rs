//! The README's blocks that can be run.

pub const README: &str = include_str!("../../README.md");

/// A fenced block, without its fences.
#[derive(Debug)]
pub enum Block {
    /// One request; may go over several lines.
    Curl(String),
    /// The answer to the request before it.
    Json(String),
    Sql(String),
    /// What `psql` prints for the query before it.
    Rows(String),
    /// What the server logs as it starts.
    Log(String),
    /// Commands of this program, with what they print.
    Transcript(String),
}

/// The blocks in order. Other languages, and shell blocks that are no requests, are for people only. Text is what the
/// block before it prints, if that is a query.
pub fn blocks() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut lines = README.lines();
    while let Some(line) = lines.next() {
        let Some(language) = line.strip_prefix("```") else { continue };
        let text = lines.by_ref().take_while(|line| *line != "```").collect::<Vec<_>>().join("\n");
        match language {
            "sh" if text.starts_with("curl ") => blocks.push(Block::Curl(text)),
            "json" => blocks.push(Block::Json(text)),
            "sql" => blocks.push(Block::Sql(text)),
            "text" | "console" if text.starts_with("$ steelyard ") => blocks.push(Block::Transcript(text)),
            "text" if text.contains("Z  INFO ") => blocks.push(Block::Log(text)),
            "text" if matches!(blocks.last(), Some(Block::Sql(_))) => blocks.push(Block::Rows(text)),
            _ => {}
        }
    }
    blocks
}
