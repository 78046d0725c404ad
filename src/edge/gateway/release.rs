//! `POST /release`: ends a trajectory.

use axum::{
    Json,
    extract::{Request, State},
};
use serde_json::{Value, json, value::RawValue};

use super::{
    Gateway,
    field::{Fault, Faults, Field},
    refusal::Refusal,
    trajectory_key,
};

/// The body of a request.
#[derive(Debug, PartialEq)]
struct Release {
    trajectory_id: String,
    /// Whether the files are given up; they are kept for the same id alone, while its slot is free.
    reset_workspace: bool,
}

impl Release {
    fn parse(body: &RawValue) -> Result<Self, Vec<Fault>> {
        let mut faults = Faults::default();
        let members = Field::body(body).members([&["body", "trajectory_id"], &["body", "reset_workspace"]]);
        let Some([id, reset]) = faults.take(members) else { return Err(faults.all()) };
        let (id, reset) = (faults.take(id.text()), faults.take(reset.flag_or(false)));
        match (id, reset) {
            (Some(trajectory_id), Some(reset_workspace)) => Ok(Self { trajectory_id, reset_workspace }),
            _ => Err(faults.all()),
        }
    }
}

/// Answered once the slot has been given back. A trajectory that is not there has ended.
pub(super) async fn release(State(gateway): State<Gateway>, request: Request) -> Result<Json<Value>, Refusal> {
    let (tenant, body) = gateway.admit(request).await?;
    let Release { trajectory_id, reset_workspace } = Release::parse(&body).map_err(Refusal::Unprocessable)?;
    gateway.directory.release(&trajectory_key(tenant, &trajectory_id), !reset_workspace).await;
    Ok(Json(json!({"status": "ok"})))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(json: &str) -> Result<bool, Value> {
        let body: &RawValue = serde_json::from_str(json).expect("it is JSON");
        let parsed = Release::parse(body).map(|release| release.reset_workspace);
        parsed.map_err(|faults| serde_json::to_value(faults).expect("it is JSON"))
    }

    #[test]
    fn whatever_can_be_read_as_a_flag_is_one() {
        let flag = |text: &str| parse(&format!(r#"{{"trajectory_id":"x","reset_workspace":{text}}}"#));
        for text in ["true", "1", "1.0", r#""true""#, r#""TRUE""#, r#""yes""#, r#""on""#, r#""y""#, r#""t""#, r#""1""#]
        {
            assert_eq!(flag(text), Ok(true), "{text}");
        }
        for text in ["false", "0", "0.0", r#""off""#, r#""0""#, r#""No""#] {
            assert_eq!(flag(text), Ok(false), "{text}");
        }
        assert_eq!(parse(r#"{"trajectory_id":"x"}"#), Ok(false));
        for text in ["2", "-1", r#""maybe""#, r#""""#, r#"" true""#] {
            let fault = &flag(text).expect_err("it is none")[0];
            assert_eq!(fault["type"], "bool_parsing", "{text}");
            assert_eq!(fault["msg"], "Input should be a valid boolean, unable to interpret input");
        }
        for text in ["null", "0.5", "[]", "{}"] {
            let fault = &flag(text).expect_err("it is none")[0];
            assert_eq!(
                (&fault["type"], &fault["msg"]),
                (&json!("bool_type"), &json!("Input should be a valid boolean"))
            );
        }
    }

    #[test]
    fn every_fault_is_told_in_order() {
        let input = json!({"reset_workspace": "maybe"});
        let fault = |kind: &str, field: &str, message: &str, input: &Value| json!({"type": kind, "loc": ["body", field], "msg": message, "input": input});
        let bad_flag = "Input should be a valid boolean, unable to interpret input";
        let faults = json!([
            fault("missing", "trajectory_id", "Field required", &input),
            fault("bool_parsing", "reset_workspace", bad_flag, &json!("maybe")),
        ]);
        assert_eq!(parse(r#"{"reset_workspace":"maybe"}"#), Err(faults));
    }
}
