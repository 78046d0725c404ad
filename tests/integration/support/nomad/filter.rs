//! The filter language, as far as clients use it: `==`, `!=`, `in`, `contains`, `matches`, `is empty`, each with its
//! `not`; `and`, `or`, `not` and parentheses.

use regex::Regex;
use serde_json::Value;

pub(super) enum Filter {
    And(Box<Filter>, Box<Filter>),
    Or(Box<Filter>, Box<Filter>),
    Not(Box<Filter>),
    Equals(Vec<String>, String),
    Contains(Vec<String>, String),
    Matches(Vec<String>, Regex),
    IsEmpty(Vec<String>),
}

impl Filter {
    /// Whether it takes this; an error is the server's text for a field that does not exist.
    pub(super) fn takes(&self, datum: &Value) -> Result<bool, String> {
        Ok(match self {
            Self::And(left, right) => left.takes(datum)? && right.takes(datum)?,
            Self::Or(left, right) => left.takes(datum)? || right.takes(datum)?,
            Self::Not(inner) => !inner.takes(datum)?,
            Self::Equals(path, wanted) => select(datum, path)?.is_some_and(|value| printed(value) == *wanted),
            Self::Contains(path, wanted) => select(datum, path)?.is_some_and(|value| match value {
                Value::Object(map) => map.contains_key(wanted),
                Value::Array(list) => list.iter().any(|entry| printed(entry) == *wanted),
                value => printed(value).contains(wanted),
            }),
            Self::Matches(path, regex) => select(datum, path)?.is_some_and(|value| regex.is_match(&printed(value))),
            Self::IsEmpty(path) => select(datum, path)?.is_none_or(|value| match value {
                Value::Object(map) => map.is_empty(),
                Value::Array(list) => list.is_empty(),
                value => printed(value).is_empty(),
            }),
        })
    }
}

fn printed(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        value => value.to_string(),
    }
}

/// A key that a map lacks is nothing; one that a struct lacks is an error. Only `Meta` is a map.
fn select<'a>(datum: &'a Value, path: &[String]) -> Result<Option<&'a Value>, String> {
    let mut value = datum;
    for (at, part) in path.iter().enumerate() {
        let is_map = at > 0 && path[at - 1] == "Meta";
        match value.get(part) {
            Some(found) => value = found,
            None if is_map || value.is_null() => return Ok(None),
            None => {
                return Err(format!(
                    "failed to read result page: error finding value in datum: /{} at part {at}: couldn't find key: \
                     struct field with name {part:?}",
                    path.join("/")
                ));
            }
        }
    }
    Ok(Some(value))
}

#[derive(Debug, Clone, PartialEq)]
enum Token {
    Word(String),
    Text(String),
    Symbol(&'static str),
}

pub(super) fn parse(text: &str) -> Result<Filter, String> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, length: text.len() };
    let filter = parser.either()?;
    if parser.at < parser.tokens.len() { Err(parser.unexpected()) } else { Ok(filter) }
}

fn mistake(at: usize) -> String {
    format!(
        "failed to create result paginator: failed to read filter expression: 1:{} ({at}): no match found, expected: \
         \"!=\", \"==\", \"contains\", \"in\", \"is\", \"matches\", \"not\" or [ \\t\\r\\n]",
        at + 1
    )
}

fn tokens(text: &str) -> Result<Vec<(usize, Token)>, String> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(char) = text[at..].chars().next() {
        let rest = &text[at..];
        if char.is_whitespace() {
            at += char.len_utf8();
            continue;
        }
        if let Some(symbol) = ["==", "!=", "(", ")", ".", "[", "]"].into_iter().find(|symbol| rest.starts_with(symbol))
        {
            found.push((at, Token::Symbol(symbol)));
            at += symbol.len();
        } else if char == '"' || char == '`' {
            let end = rest[1..].find(char).ok_or_else(|| mistake(at))?;
            found.push((at, Token::Text(rest[1..=end].to_owned())));
            at += end + 2;
        } else {
            let is_word = |char: char| char.is_alphanumeric() || "_-/".contains(char);
            let end = rest.find(|char| !is_word(char)).unwrap_or(rest.len());
            if end == 0 {
                return Err(mistake(at));
            }
            found.push((at, Token::Word(rest[..end].to_owned())));
            at += end;
        }
    }
    Ok(found)
}

struct Parser {
    tokens: Vec<(usize, Token)>,
    at: usize,
    length: usize,
}

impl Parser {
    fn unexpected(&self) -> String {
        mistake(self.tokens.get(self.at).map_or(self.length, |(at, _)| *at))
    }

    fn take(&mut self, wanted: &Token) -> bool {
        let is_next = self.tokens.get(self.at).is_some_and(|(_, token)| token == wanted);
        self.at += usize::from(is_next);
        is_next
    }

    fn word(&mut self, wanted: &str) -> bool {
        self.take(&Token::Word(wanted.to_owned()))
    }

    fn either(&mut self) -> Result<Filter, String> {
        let left = self.both()?;
        if self.word("or") { Ok(Filter::Or(Box::new(left), Box::new(self.either()?))) } else { Ok(left) }
    }

    fn both(&mut self) -> Result<Filter, String> {
        let left = self.one()?;
        if self.word("and") { Ok(Filter::And(Box::new(left), Box::new(self.both()?))) } else { Ok(left) }
    }

    fn one(&mut self) -> Result<Filter, String> {
        if self.word("not") {
            return Ok(Filter::Not(Box::new(self.one()?)));
        }
        if self.take(&Token::Symbol("(")) {
            let inner = self.either()?;
            return if self.take(&Token::Symbol(")")) { Ok(inner) } else { Err(self.unexpected()) };
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Filter, String> {
        // `"value" in Selector` has its sides the other way round.
        if let Some((_, Token::Text(value))) = self.tokens.get(self.at).cloned() {
            self.at += 1;
            let negated = self.word("not");
            if !self.word("in") {
                return Err(self.unexpected());
            }
            return Ok(not_if(negated, Filter::Contains(self.selector()?, value)));
        }
        let path = self.selector()?;
        if self.take(&Token::Symbol("==")) {
            return Ok(Filter::Equals(path, self.value()?));
        }
        if self.take(&Token::Symbol("!=")) {
            return Ok(not_if(true, Filter::Equals(path, self.value()?)));
        }
        if self.word("is") {
            let negated = self.word("not");
            let filter = not_if(negated, Filter::IsEmpty(path));
            return if self.word("empty") { Ok(filter) } else { Err(self.unexpected()) };
        }
        let negated = self.word("not");
        if self.word("contains") {
            return Ok(not_if(negated, Filter::Contains(path, self.value()?)));
        }
        if self.word("matches") {
            let regex = Regex::new(&self.value()?).map_err(|error| error.to_string())?;
            return Ok(not_if(negated, Filter::Matches(path, regex)));
        }
        Err(self.unexpected())
    }

    fn selector(&mut self) -> Result<Vec<String>, String> {
        let mut path = vec![self.part()?];
        loop {
            if self.take(&Token::Symbol(".")) {
                path.push(self.part()?);
            } else if self.take(&Token::Symbol("[")) {
                path.push(self.value()?);
                if !self.take(&Token::Symbol("]")) {
                    return Err(self.unexpected());
                }
            } else {
                return Ok(path);
            }
        }
    }

    fn part(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at) {
            Some((_, Token::Word(word))) => {
                let word = word.clone();
                self.at += 1;
                Ok(word)
            }
            _ => Err(self.unexpected()),
        }
    }

    fn value(&mut self) -> Result<String, String> {
        match self.tokens.get(self.at).cloned() {
            Some((_, Token::Text(value) | Token::Word(value))) => {
                self.at += 1;
                Ok(value)
            }
            _ => Err(self.unexpected()),
        }
    }
}

fn not_if(negated: bool, filter: Filter) -> Filter {
    if negated { Filter::Not(Box::new(filter)) } else { filter }
}
