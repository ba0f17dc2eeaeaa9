//! Tokens to an expression, within bounds.

use super::expr::{Expr, set};
use super::token::{Bad, Token, Tokens};

/// Longest selector text that is parsed, in bytes. Resources allow 1024 characters; the
/// conversion of Kubernetes policies makes longer ones.
pub const MAX_LENGTH: usize = 64 * 1024;

/// Deepest nesting of parentheses.
pub const MAX_DEPTH: usize = 256;

/// Text that is no selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SelectorError {
    /// Something else should stand there.
    #[error("column {column}: expected {expected}, found {found}")]
    Syntax {
        /// Place in the text, in characters from 1.
        column: usize,
        /// What would be right.
        expected: &'static str,
        /// What stands there.
        found: String,
    },
    /// Too long.
    #[error("the selector has {length} bytes; at most {MAX_LENGTH} are read")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// Too deep.
    #[error("column {column}: parentheses nest deeper than {MAX_DEPTH}")]
    TooDeep {
        /// Place in the text, in characters from 1.
        column: usize,
    },
}

/// Parses selector text; empty text matches everything.
pub(super) fn parse(text: &str) -> Result<Expr, SelectorError> {
    if text.len() > MAX_LENGTH {
        return Err(SelectorError::TooLong { length: text.len() });
    }
    let mut parser = Parser { text, tokens: Tokens::new(text), token: Token::End, at: 0, depth: 0 };
    parser.advance()?;
    if parser.token == Token::End {
        return Ok(Expr::All);
    }
    let expr = parser.or()?;
    match parser.token {
        Token::End => Ok(expr),
        _ => Err(parser.unexpected("`&&`, `||` or the end")),
    }
}

struct Parser<'a> {
    text: &'a str,
    tokens: Tokens<'a>,
    /// The next token, not used up yet.
    token: Token<'a>,
    /// Where it begins, in bytes.
    at: usize,
    depth: usize,
}

impl<'a> Parser<'a> {
    fn advance(&mut self) -> Result<Token<'a>, SelectorError> {
        let used = self.token;
        (self.token, self.at) = self.tokens.next().map_err(|bad| self.syntax(bad))?;
        Ok(used)
    }

    fn syntax(&self, bad: Bad) -> SelectorError {
        let Bad { offset, expected, found } = bad;
        SelectorError::Syntax { column: self.column(offset), expected, found }
    }

    fn column(&self, offset: usize) -> usize {
        self.text[..offset].chars().count() + 1
    }

    fn unexpected(&self, expected: &'static str) -> SelectorError {
        self.syntax(Bad { offset: self.at, expected, found: self.token.to_string() })
    }

    fn or(&mut self) -> Result<Expr, SelectorError> {
        let first = self.and()?;
        if self.token != Token::Or {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.token == Token::Or {
            self.advance()?;
            operands.push(self.and()?);
        }
        Ok(Expr::Or(operands))
    }

    fn and(&mut self) -> Result<Expr, SelectorError> {
        let first = self.unary()?;
        if self.token != Token::And {
            return Ok(first);
        }
        let mut operands = vec![first];
        while self.token == Token::And {
            self.advance()?;
            operands.push(self.unary()?);
        }
        Ok(Expr::And(operands))
    }

    fn unary(&mut self) -> Result<Expr, SelectorError> {
        let mut negated = false;
        while self.token == Token::Not {
            self.advance()?;
            negated = !negated;
        }
        let expr = self.primary()?;
        Ok(if negated { expr.negate() } else { expr })
    }

    fn primary(&mut self) -> Result<Expr, SelectorError> {
        const EXPECTED: &str = "a label's name, has(), all(), global(), `!` or `(`";
        let expr = match self.token {
            Token::All => Expr::All,
            Token::Global => Expr::Global,
            Token::Has(name) => Expr::Has(name.into()),
            Token::Name(name) => {
                self.advance()?;
                return self.comparison(name);
            }
            Token::LeftParen => {
                if self.depth == MAX_DEPTH {
                    return Err(SelectorError::TooDeep { column: self.column(self.at) });
                }
                self.depth += 1;
                self.advance()?;
                let inside = self.or()?;
                self.depth -= 1;
                if self.token != Token::RightParen {
                    return Err(self.unexpected("`&&`, `||` or `)`"));
                }
                inside
            }
            _ => return Err(self.unexpected(EXPECTED)),
        };
        self.advance()?;
        Ok(expr)
    }

    fn comparison(&mut self, name: &str) -> Result<Expr, SelectorError> {
        let compare: fn(Box<str>, Box<str>) -> Expr = match self.token {
            Token::Equal => Expr::Equal,
            Token::NotEqual => Expr::NotEqual,
            Token::Contains => Expr::Contains,
            Token::StartsWith => Expr::StartsWith,
            Token::EndsWith => Expr::EndsWith,
            Token::In | Token::NotIn => {
                let operator = self.advance()?;
                let values = self.values()?;
                let member = if operator == Token::In { Expr::In } else { Expr::NotIn };
                return Ok(member(name.into(), values));
            }
            _ => {
                return Err(self.unexpected(
                    "==, !=, in, not in, contains, starts with or ends with after the label",
                ));
            }
        };
        self.advance()?;
        let Token::Text(value) = self.token else {
            return Err(self.unexpected("a text in quotes"));
        };
        self.advance()?;
        Ok(compare(name.into(), value.into()))
    }

    /// `{'a', 'b'}`; may be empty, and a comma may follow the last value.
    fn values(&mut self) -> Result<Box<[Box<str>]>, SelectorError> {
        if self.token != Token::LeftBrace {
            return Err(self.unexpected("a set of texts, such as {'a', 'b'}"));
        }
        self.advance()?;
        let mut values = Vec::new();
        while let Token::Text(value) = self.token {
            values.push(value);
            self.advance()?;
            if self.token != Token::Comma {
                break;
            }
            self.advance()?;
        }
        if self.token != Token::RightBrace {
            return Err(self.unexpected("a text in quotes, `,` or `}`"));
        }
        self.advance()?;
        Ok(set(values))
    }
}
