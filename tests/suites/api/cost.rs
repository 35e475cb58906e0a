//! The rules are cheap: every one of them twice still fits.

use aifactory_tests::run;
use serde_json::{Value, json};

use super::Outcome;
use super::scene::{Scene, complaints, scene};

/// A definition of a group of its own, whose rules are each written `times` times. The server's estimate adds up what `&&` joins, for one rule
/// as for all rules of a definition, so that it is `times` as high.
fn multiplied(definition: &Value, times: usize) -> Value {
    let mut definition = definition.clone();
    let plural = definition["spec"]["names"]["plural"].clone();
    definition["spec"]["group"] = json!("cost.aifactory.dev");
    definition["metadata"]["name"] = json!(format!("{}.cost.aifactory.dev", plural.as_str().unwrap_or_default()));
    multiply(&mut definition["spec"]["versions"][0]["schema"], times);
    definition
}

fn multiply(schema: &mut Value, times: usize) {
    match schema {
        Value::Array(values) => values.iter_mut().for_each(|value| multiply(value, times)),
        Value::Object(fields) => {
            for rule in fields.get_mut("x-kubernetes-validations").and_then(Value::as_array_mut).into_iter().flatten() {
                let once = format!("({})", rule["rule"].as_str().unwrap_or_default());
                rule["rule"] = json!(vec![once; times].join(" && "));
            }
            fields.values_mut().for_each(|value| multiply(value, times));
        }
        _ => {}
    }
}

async fn accepted(scene: &Scene, definition: &Value) -> Result<(), String> {
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    scene.send("POST", path, definition, true).await.map(drop).map_err(|error| complaints(&error).join("\n"))
}

/// The server refuses a definition above its limits, for one rule and for all, and says nothing below. What it accepts twice over costs at most
/// half. That it looks at all is shown by the multiple that it refuses.
#[test]
fn rules_cost_less_than_half_of_what_is_allowed() -> Outcome {
    run(async {
        let scene = scene().await?;
        for definition in aifactory_api::crds() {
            let definition = serde_json::to_value(&definition)?;
            let name = &definition["metadata"]["name"];
            accepted(scene, &multiplied(&definition, 2)).await.map_err(|error| format!("{name} twice: {error}"))?;
            let mut refusal = Ok(());
            let mut times = 4;
            while refusal.is_ok() && times <= 1 << 14 {
                refusal = accepted(scene, &multiplied(&definition, times)).await;
                times *= 2;
            }
            let Err(refusal) = refusal else { return Err(format!("{name}: no multiple is refused").into()) };
            assert!(refusal.contains("estimated rule cost"), "{name}, {} times: {refusal}", times / 2);
        }
        Ok(())
    })
}
