//! JSON-RPC objects: what a line says, and the lines that answer it.

use serde_json::{Map, Value, json};
use valise_chat_core::api::{Command, Event, Refusal};

use super::Line;

/// A JSON-RPC error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RpcError {
    /// Of the JSON-RPC specification, section 5.1; -32000 for a refusal of the engine.
    pub(super) code: i64,
    /// For people.
    pub(super) message: String,
    /// The refusal's code, if it is one.
    pub(super) refusal: Option<String>,
}

/// The engine has refused.
const REFUSED: i64 = -32_000;

impl RpcError {
    /// The line cannot be read.
    pub(super) fn parse(why: &str) -> Self {
        Self { code: -32_700, message: format!("not a line of JSON: {why}"), refusal: None }
    }

    /// It is no JSON-RPC request.
    pub(super) fn invalid(why: &str) -> Self {
        Self { code: -32_600, message: format!("not a JSON-RPC 2.0 request: {why}"), refusal: None }
    }

    /// There is no such command.
    pub(super) fn method(name: &str) -> Self {
        let message = format!("there is no method {name:?}");
        Self { code: -32_601, message, refusal: None }
    }

    /// The command needs other parameters.
    pub(super) fn params(why: &str) -> Self {
        Self { code: -32_602, message: format!("wrong parameters: {why}"), refusal: None }
    }

    /// The answer cannot be given.
    pub(super) fn internal(why: &str) -> Self {
        Self { code: -32_603, message: why.to_owned(), refusal: None }
    }
}

impl From<Refusal> for RpcError {
    fn from(refusal: Refusal) -> Self {
        Self { code: REFUSED, message: refusal.message, refusal: Some(refusal.code) }
    }
}

impl From<RpcError> for Refusal {
    fn from(error: RpcError) -> Self {
        let code = error.refusal.unwrap_or_else(|| "rpc".to_owned());
        Self { code, message: error.message }
    }
}

/// A request: its id, or none if nobody wants an answer.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Request {
    /// Given back with the answer; absent in a notification.
    pub(super) id: Option<Value>,
    /// What to do.
    pub(super) command: Command,
}

/// What a line from a front end asks for.
///
/// # Errors
/// The id to answer to, and the error to answer with.
pub(super) fn request(line: &Line) -> Result<Request, (Value, RpcError)> {
    let line = match line {
        Line::Whole(line) => line,
        Line::TooLong => return Err((Value::Null, RpcError::parse("it is too long"))),
    };
    let object: Value = serde_json::from_slice(line)
        .map_err(|error| (Value::Null, RpcError::parse(&error.to_string())))?;
    let Value::Object(mut object) = object else {
        return Err((Value::Null, RpcError::invalid("one object per line, and no batches")));
    };
    let id = object.remove("id");
    let answer_to = match &id {
        Some(id @ (Value::String(_) | Value::Number(_))) => id.clone(),
        None | Some(Value::Null) => Value::Null,
        Some(_) => {
            return Err((Value::Null, RpcError::invalid("an id is a text or a number")));
        }
    };
    match command(object) {
        Ok(command) => Ok(Request { id, command }),
        Err(error) => Err((answer_to, error)),
    }
}

fn command(mut object: Map<String, Value>) -> Result<Command, RpcError> {
    if object.get("jsonrpc") != Some(&json!("2.0")) {
        return Err(RpcError::invalid("it says no \"jsonrpc\": \"2.0\""));
    }
    let Some(Value::String(method)) = object.remove("method") else {
        return Err(RpcError::invalid("it has no method"));
    };
    let params = match object.remove("params") {
        None => json!({}),
        Some(params @ Value::Object(_)) => params,
        Some(_) => return Err(RpcError::params("they are an object")),
    };
    serde_json::from_value(json!({ "method": method, "params": params })).map_err(|error| {
        let why = error.to_string();
        // The one kind of error in which serde names a variant is an unknown one.
        if why.starts_with("unknown variant") {
            RpcError::method(&method)
        } else {
            RpcError::params(&why)
        }
    })
}

/// The line that asks for a command.
pub(super) fn call(id: u64, command: &Command) -> String {
    let mut object = serde_json::to_value(command).expect("a command is plain data");
    object["jsonrpc"] = json!("2.0");
    object["id"] = json!(id);
    line(&object)
}

/// The line that answers.
pub(super) fn outcome(id: &Value, outcome: Result<Value, RpcError>) -> String {
    line(&match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err(RpcError { code, message, refusal }) => {
            let mut error = json!({ "code": code, "message": message });
            if let Some(refusal) = refusal {
                error["data"] = json!({ "code": refusal });
            }
            json!({ "jsonrpc": "2.0", "id": id, "error": error })
        }
    })
}

/// The line that tells an event.
pub(super) fn event(event: &Event) -> String {
    line(&json!({ "jsonrpc": "2.0", "method": "event", "params": event }))
}

/// The line that says that events were lost, because they were not read fast enough.
pub(super) fn missed() -> String {
    line(&json!({ "jsonrpc": "2.0", "method": "missed", "params": {} }))
}

/// What a line from the engine says.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Incoming {
    /// The answer to a call.
    Answer(u64, Result<Value, RpcError>),
    /// An event.
    Event(Event),
    /// Events were lost.
    Missed,
    /// Something that this version does not know.
    Unknown,
}

/// Reads a line from the engine.
pub(super) fn incoming(text: &[u8]) -> Incoming {
    let Ok(Value::Object(mut object)) = serde_json::from_slice(text) else {
        return Incoming::Unknown;
    };
    if let Some(id) = object.get("id").and_then(Value::as_u64) {
        return match (object.remove("result"), object.remove("error")) {
            (Some(result), None) => Incoming::Answer(id, Ok(result)),
            (None, Some(error)) => Incoming::Answer(id, Err(error_of(&error))),
            _ => Incoming::Unknown,
        };
    }
    match object.get("method").and_then(Value::as_str) {
        Some("missed") => Incoming::Missed,
        Some("event") => {
            let params = object.remove("params").unwrap_or_default();
            serde_json::from_value(params).map_or(Incoming::Unknown, Incoming::Event)
        }
        _ => Incoming::Unknown,
    }
}

fn error_of(error: &Value) -> RpcError {
    RpcError {
        code: error["code"].as_i64().unwrap_or(0),
        message: error["message"].as_str().unwrap_or("no reason was given").to_owned(),
        refusal: error["data"]["code"].as_str().map(str::to_owned),
    }
}

fn line(object: &Value) -> String {
    let mut line = object.to_string();
    line.push('\n');
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Result<Request, (Value, i64)> {
        request(&Line::Whole(line.as_bytes().to_vec())).map_err(|(id, error)| (id, error.code))
    }

    #[test]
    fn requests_are_commands() {
        let send =
            r#"{"jsonrpc":"2.0","id":"a","method":"send","params":{"conversation":3,"text":"hi"}}"#;
        let command = Command::Send { conversation: 3, text: "hi".to_owned(), key: None };
        assert_eq!(read(send), Ok(Request { id: Some(json!("a")), command }));
        let status = r#"{"jsonrpc":"2.0","method":"status"}"#;
        assert_eq!(read(status), Ok(Request { id: None, command: Command::Status {} }));
    }

    #[test]
    fn what_is_wrong_is_answered_by_its_code() {
        let table = [
            ("nonsense", Value::Null, -32_700),
            ("[]", Value::Null, -32_600),
            ("1", Value::Null, -32_600),
            (r#"{"id":1,"method":"status"}"#, json!(1), -32_600),
            (r#"{"jsonrpc":"2.0","id":2}"#, json!(2), -32_600),
            (r#"{"jsonrpc":"2.0","id":{},"method":"status"}"#, Value::Null, -32_600),
            (r#"{"jsonrpc":"2.0","id":3,"method":"fly"}"#, json!(3), -32_601),
            (r#"{"jsonrpc":"2.0","id":4,"method":"send"}"#, json!(4), -32_602),
            (r#"{"jsonrpc":"2.0","id":5,"method":"status","params":[]}"#, json!(5), -32_602),
        ];
        for (line, id, code) in table {
            assert_eq!(read(line), Err((id, code)), "{line}");
        }
        let (id, error) = request(&Line::TooLong).unwrap_err();
        assert_eq!((id, error.code), (Value::Null, -32_700));
    }

    #[test]
    fn both_sides_understand_each_other() {
        let command = Command::Members { conversation: 7 };
        let asked = request(&Line::Whole(call(9, &command).into_bytes())).unwrap();
        assert_eq!(asked, Request { id: Some(json!(9)), command });
        let answer = outcome(&json!(9), Ok(json!([1])));
        assert_eq!(incoming(answer.as_bytes()), Incoming::Answer(9, Ok(json!([1]))));
        let refusal = Refusal { code: "new_relay".to_owned(), message: "ask first".to_owned() };
        let refused = outcome(&json!(9), Err(refusal.clone().into()));
        let Incoming::Answer(9, Err(error)) = incoming(refused.as_bytes()) else { panic!() };
        assert_eq!(Refusal::from(error), refusal);
        let notice = Event::Notice { text: "x\ny".to_owned() };
        let line = event(&notice);
        assert_eq!(line.matches('\n').count(), 1);
        assert_eq!(incoming(line.as_bytes()), Incoming::Event(notice));
        assert_eq!(incoming(missed().as_bytes()), Incoming::Missed);
    }

    #[test]
    fn an_engine_of_another_version_is_no_disaster() {
        for line in ["", "[]", r#"{"method":"event","params":{"event":"new_thing"}}"#] {
            assert_eq!(incoming(line.as_bytes()), Incoming::Unknown, "{line}");
        }
    }
}
