//! Reads Rust source as far as the rules need: tokens without comments and literals, the paths they
//! name, and which of them are test code. No full parser: what it cannot tell apart (a path built by a
//! macro from pieces) the rules do not see.

use std::collections::BTreeSet;

/// One source file, taken apart.
pub(super) struct Source {
    /// Relative to the package, with `/` between parts: `src/raft/mod.rs`.
    pub(super) path: String,
    pub(super) tokens: Vec<Token>,
    /// Modules of their own file that `#[cfg(test)] mod name;` declares here.
    pub(super) test_modules: Vec<String>,
    /// Files that `#[cfg(test)]` and `#[path = "…"]` bring in, relative to the package.
    pub(super) test_files: Vec<String>,
    /// The first line, as it stands.
    pub(super) first_line: String,
    lines: usize,
}

/// One word or sign of the source.
pub(super) struct Token {
    pub(super) text: String,
    /// Counted from 1.
    pub(super) line: usize,
    /// Within an item that only `cfg(test)` compiles.
    pub(super) is_test: bool,
}

/// A path named in the source, by `use` or in place.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Named {
    /// From the crate's root if `is_local`, else as written. A glob's last segment is `*`.
    pub(super) segments: Vec<String>,
    /// Whether it began with `crate`, `self` or `super`.
    pub(super) is_local: bool,
    /// Whether a `use` declaration names it.
    pub(super) is_import: bool,
    pub(super) line: usize,
    pub(super) is_test: bool,
}

impl Source {
    pub(super) fn new(path: &str, text: &str) -> Self {
        let mut tokens = tokens(text);
        let test_modules = mark_tests(&mut tokens);
        Self {
            path: path.to_owned(),
            tokens,
            test_modules,
            test_files: test_files(path, text),
            first_line: text.lines().next().unwrap_or_default().to_owned(),
            lines: text.lines().count(),
        }
    }

    /// The place of the file in its crate: `src/raft/log.rs` is `raft`, `log`.
    pub(super) fn module(&self) -> Vec<String> {
        let inner = self.path.strip_prefix("src/").unwrap_or(&self.path);
        let mut module: Vec<String> =
            inner.strip_suffix(".rs").unwrap_or(inner).split('/').map(str::to_owned).collect();
        if module.last().is_some_and(|last| matches!(last.as_str(), "mod" | "lib" | "main")) {
            module.pop();
        }
        module
    }

    /// Makes all of it test code.
    pub(super) fn mark_as_test(&mut self) {
        for token in &mut self.tokens {
            token.is_test = true;
        }
        self.lines = 0;
    }

    /// Lines that are not within test code; comments and empty lines count.
    pub(super) fn lines_without_tests(&self) -> usize {
        let mut test_lines = BTreeSet::new();
        for pair in self.tokens.windows(2) {
            if pair[0].is_test && pair[1].is_test {
                test_lines.extend(pair[0].line..=pair[1].line);
            }
        }
        self.lines.saturating_sub(test_lines.len())
    }

    /// All paths of two or more segments, and all that `use` names.
    pub(super) fn paths(&self) -> Vec<Named> {
        let mut reader = PathReader {
            tokens: &self.tokens,
            at: 0,
            module: self.module(),
            depth: 0,
            inline_modules: Vec::new(),
            found: Vec::new(),
        };
        reader.run();
        reader.found
    }
}

struct PathReader<'a> {
    tokens: &'a [Token],
    at: usize,
    /// The module that the tokens at `at` are in, inline modules included.
    module: Vec<String>,
    /// Open braces.
    depth: usize,
    /// The depth at which each inline module closes.
    inline_modules: Vec<usize>,
    found: Vec<Named>,
}

impl PathReader<'_> {
    fn text(&self, at: usize) -> &str {
        self.tokens.get(at).map_or("", |token| token.text.as_str())
    }

    fn run(&mut self) {
        while self.at < self.tokens.len() {
            match self.text(self.at) {
                "mod" if self.text(self.at + 2) == "{" => {
                    self.module.push(self.text(self.at + 1).to_owned());
                    self.inline_modules.push(self.depth);
                    self.at += 2;
                    continue;
                }
                "{" => self.depth += 1,
                "}" => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.inline_modules.last() == Some(&self.depth) {
                        self.inline_modules.pop();
                        self.module.pop();
                    }
                }
                // `use<'a>` in a type is something else.
                "use" if self.text(self.at + 1) != "<" => {
                    self.at += 1;
                    self.use_tree(&mut Vec::new());
                    continue;
                }
                text if is_word(text) && self.text(self.at + 1) == "::" => {
                    self.path_in_place();
                    continue;
                }
                _ => {}
            }
            self.at += 1;
        }
    }

    fn use_tree(&mut self, prefix: &mut Vec<String>) {
        let depth = prefix.len();
        loop {
            let text = self.text(self.at).to_owned();
            self.at += 1;
            match text.as_str() {
                "::" => {}
                "{" => {
                    while !matches!(self.text(self.at), "}" | "") {
                        self.use_tree(prefix);
                        if self.text(self.at) == "," {
                            self.at += 1;
                        }
                    }
                    self.at += 1;
                    break;
                }
                word => {
                    prefix.push(word.to_owned());
                    if self.text(self.at) != "::" {
                        self.record(prefix.clone(), self.at - 1, true);
                        break;
                    }
                }
            }
        }
        prefix.truncate(depth);
        if self.text(self.at) == "as" {
            self.at += 2;
        }
    }

    fn path_in_place(&mut self) {
        let start = self.at;
        let mut segments = vec![self.text(self.at).to_owned()];
        self.at += 1;
        while self.text(self.at) == "::" && is_word(self.text(self.at + 1)) {
            segments.push(self.text(self.at + 1).to_owned());
            self.at += 2;
        }
        if segments.len() > 1 {
            self.record(segments, start, false);
        }
    }

    fn record(&mut self, mut segments: Vec<String>, at: usize, is_import: bool) {
        if segments.len() > 1 && segments.last().is_some_and(|last| last == "self") {
            segments.pop();
        }
        let is_local = matches!(segments[0].as_str(), "crate" | "self" | "super");
        if is_local {
            let mut resolved = if segments[0] == "crate" { Vec::new() } else { self.module.clone() };
            for segment in segments {
                match segment.as_str() {
                    "crate" | "self" => {}
                    "super" => drop(resolved.pop()),
                    _ => resolved.push(segment),
                }
            }
            segments = resolved;
        }
        let Token { line, is_test, .. } = self.tokens[at];
        self.found.push(Named { segments, is_local, is_import, line, is_test });
    }
}

fn is_word(text: &str) -> bool {
    text.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Marks the items below `#[cfg(test)]`, and returns the modules it declares without a body.
fn mark_tests(tokens: &mut [Token]) -> Vec<String> {
    let mut modules = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if texts_are(&tokens[at..], &["#", "!", "[", "cfg", "(", "test", ")", "]"]) {
            for token in tokens {
                token.is_test = true;
            }
            break;
        }
        let is_test = texts_are(&tokens[at..], &["#", "[", "cfg", "(", "test", ")", "]"])
            || texts_are(&tokens[at..], &["#", "[", "cfg", "(", "all", "(", "test", ","])
            // What the fuzz targets run is test code, too.
            || texts_are(&tokens[at..], &["#", "[", "cfg", "(", "any", "(", "test", ","]);
        if !is_test {
            at += 1;
            continue;
        }
        let mut item = at;
        while tokens.get(item).is_some_and(|token| token.text == "#") {
            item = closing(tokens, item + 1) + 1;
        }
        let end = item_end(tokens, item);
        for token in &mut tokens[at..end] {
            token.is_test = true;
        }
        if let Some(module) = (item..end).find(|&at| tokens[at].text == "mod")
            && tokens[end - 1].text == ";"
        {
            modules.push(tokens[module + 1].text.clone());
        }
        at = end;
    }
    modules
}

/// The files that a `#[path]` below `#[cfg(test)]` names, as rustfmt lays them out: one attribute a line.
fn test_files(path: &str, text: &str) -> Vec<String> {
    let folder = path.rsplit_once('/').map_or("", |(folder, _)| folder);
    let lines: Vec<&str> = text.lines().map(str::trim).collect();
    let named = |pair: &[&str]| {
        let rest = pair[1].strip_prefix("#[path = \"").filter(|_| pair[0] == "#[cfg(test)]")?;
        Some(format!("{folder}/{}", rest.split_once('"')?.0))
    };
    lines.windows(2).filter_map(named).collect()
}

fn texts_are(tokens: &[Token], texts: &[&str]) -> bool {
    tokens.len() >= texts.len() && tokens.iter().zip(texts).all(|(token, text)| token.text == *text)
}

/// The place of the bracket that closes the one at `open`; the last token if none does.
fn closing(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token.text.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return at;
                }
            }
            _ => {}
        }
    }
    tokens.len() - 1
}

/// One past the item, statement or field that begins at `start`.
fn item_end(tokens: &[Token], start: usize) -> usize {
    const ITEMS: [&str; 14] = [
        "pub",
        "fn",
        "mod",
        "use",
        "struct",
        "enum",
        "impl",
        "trait",
        "const",
        "static",
        "type",
        "macro_rules",
        "async",
        "extern",
    ];
    let is_item = tokens.get(start).is_some_and(|first| ITEMS.contains(&first.text.as_str()));
    let is_use = tokens[start..].iter().take(2).any(|token| token.text == "use");
    let mut at = start;
    while at < tokens.len() {
        match tokens[at].text.as_str() {
            ";" => return at + 1,
            "," if !is_item => return at + 1,
            "{" if !is_use => return closing(tokens, at) + 1,
            "(" | "[" | "{" => at = closing(tokens, at),
            _ => {}
        }
        at += 1;
    }
    tokens.len()
}

/// Words, `::` and single signs; comments, strings, characters and lifetimes are left out.
fn tokens(text: &str) -> Vec<Token> {
    let mut lexer = Lexer { rest: text, line: 1, tokens: Vec::new() };
    while let Some(first) = lexer.rest.chars().next() {
        lexer.token(first);
    }
    lexer.tokens
}

struct Lexer<'a> {
    rest: &'a str,
    line: usize,
    tokens: Vec<Token>,
}

impl Lexer<'_> {
    fn skip(&mut self, bytes: usize) {
        let (skipped, rest) = self.rest.split_at(bytes);
        self.line += skipped.matches('\n').count();
        self.rest = rest;
    }

    fn push(&mut self, bytes: usize) {
        let text = self.rest[..bytes].to_owned();
        self.tokens.push(Token { text, line: self.line, is_test: false });
        self.skip(bytes);
    }

    fn token(&mut self, first: char) {
        if self.rest.starts_with("//") {
            self.skip(self.rest.find('\n').unwrap_or(self.rest.len()));
        } else if self.rest.starts_with("/*") {
            self.skip(block_comment(self.rest));
        } else if let Some(length) = raw_string(self.rest) {
            self.skip(length);
        } else if first == '"' || ["b\"", "c\""].iter().any(|open| self.rest.starts_with(open)) {
            let open = self.rest.find('"').expect("a quote was just seen");
            self.skip(open + quoted(&self.rest[open..], '"'));
        } else if first == '\'' || self.rest.starts_with("b'") {
            let open = self.rest.find('\'').expect("a quote was just seen");
            self.skip(open + character_or_lifetime(&self.rest[open..]));
        } else if let Some(rest) = self.rest.strip_prefix("r#") {
            let name = word_length(rest);
            self.skip(2);
            self.push(name.max(1).min(self.rest.len()));
        } else if first.is_alphanumeric() || first == '_' {
            self.push(word_length(self.rest));
        } else if self.rest.starts_with("::") {
            self.push(2);
        } else if first.is_whitespace() {
            self.skip(first.len_utf8());
        } else {
            self.push(first.len_utf8());
        }
    }
}

fn word_length(text: &str) -> usize {
    text.find(|next: char| !(next.is_alphanumeric() || next == '_')).unwrap_or(text.len())
}

fn block_comment(text: &str) -> usize {
    let mut depth = 0_usize;
    let mut at = 0;
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

/// The length of the raw string that `text` begins with, if it does.
fn raw_string(text: &str) -> Option<usize> {
    let prefix = ["r", "br", "cr"].into_iter().find(|prefix| {
        text.strip_prefix(prefix).is_some_and(|rest| rest.trim_start_matches('#').starts_with('"'))
    })?;
    let rest = &text[prefix.len()..];
    let hashes = rest.find('"')?;
    let close = format!("\"{}", "#".repeat(hashes));
    let body = prefix.len() + hashes + 1;
    Some(text[body..].find(&close).map_or(text.len(), |end| body + end + close.len()))
}

/// The length of the literal from its opening quote through its closing one.
fn quoted(text: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, next) in text.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if next == '\\' {
            escaped = true;
        } else if next == quote {
            return at + 1;
        }
    }
    text.len()
}

fn character_or_lifetime(text: &str) -> usize {
    let mut inner = text[1..].chars();
    match (inner.next(), inner.next()) {
        (Some('\\'), _) | (Some(_), Some('\'')) => quoted(text, '\''),
        _ => 1 + word_length(&text[1..]),
    }
}
