//! What Fly has published about its answers: `fly-openapi.json`.

use serde_json::{Value, json};

pub(crate) struct Contract(Value);

impl Contract {
    pub(crate) fn load() -> Self {
        let mut document: Value = serde_json::from_str(include_str!("../../fly-openapi.json")).unwrap();
        // Newer versions of the document have these words as well.
        let words = &mut document["components"]["schemas"]["main.statusCode"]["enum"];
        words.as_array_mut().unwrap().extend([json!("name_taken"), json!("volume_placement_capacity")]);
        Self(document)
    }

    /// Fails if the answer is not as published. What the document does not have, as most refusals, has to be an
    /// `ErrorResponse`.
    pub(crate) fn check(&self, method: &str, path: &str, status: u16, body: &Value) {
        let operation = self.operation(method, path);
        let answers = &operation["responses"];
        let answer = &answers[status.to_string()];
        assert!(status >= 400 || answer.is_object(), "{method} {path} is not published to answer {status}");
        let published = answer["content"].as_object().and_then(|types| types.values().next());
        let schema = match published {
            Some(content) => content["schema"].clone(),
            // Leases are refused in a form of their own, which the document does not have.
            None if path.ends_with("/lease") && status == 404 => json!({"required": ["status", "message"]}),
            None if status >= 400 => json!({"$ref": "#/components/schemas/ErrorResponse"}),
            None => return,
        };
        let schema = json!({"allOf": [schema], "components": self.0["components"]});
        let validator = jsonschema::validator_for(&schema).unwrap();
        let problems: Vec<String> = validator
            .iter_errors(body)
            .map(|problem| format!("{}: {problem}", problem.instance_path()))
            .collect();
        assert!(problems.is_empty(), "{method} {path} {status}: {problems:?}\n{body}");
        if status >= 400 {
            let text = body.get("error").or_else(|| body.get("message"));
            assert!(text.is_some_and(Value::is_string), "{method} {path} {status}: {body}");
        }
    }

    fn operation(&self, method: &str, path: &str) -> &Value {
        let path = path.split('?').next().unwrap();
        let wanted: Vec<&str> = path.split('/').collect();
        let fits = |template: &str| {
            let parts: Vec<&str> = template.split('/').collect();
            parts.len() == wanted.len()
                && parts.iter().zip(&wanted).all(|(part, is)| part.starts_with('{') || part == is)
        };
        let paths = self.0["paths"].as_object().unwrap();
        let found = paths.iter().find(|(template, operations)| {
            fits(template) && operations.get(method.to_ascii_lowercase()).is_some()
        });
        let (_, operations) = found.unwrap_or_else(|| panic!("{method} {path} is not published"));
        &operations[method.to_ascii_lowercase()]
    }
}

#[test]
#[should_panic(expected = "id")]
fn an_answer_of_another_type_is_noticed() {
    Contract::load().check("GET", "/apps/a/machines/m", 200, &json!({"id": 7}));
}

#[test]
#[should_panic(expected = "not published")]
fn a_status_that_is_not_published_is_noticed() {
    Contract::load().check("POST", "/apps", 200, &json!({}));
}
