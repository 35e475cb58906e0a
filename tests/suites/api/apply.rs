//! The examples by both ways of `kubectl apply`: accepted, and nothing to do the second time.

use aifactory_tests::{layout, run};

use super::Outcome;
use super::scene::{Scene, scene};

const KINDS: &str = "aifactories,gpupools,accessgrants";

fn directories() -> std::io::Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(layout::root().join("examples"))? {
        found.push(format!("examples/{}", entry?.file_name().to_string_lossy()));
    }
    found.sort();
    assert!(found.len() >= 4, "{found:?}");
    Ok(found)
}

type Text = Result<String, Box<dyn std::error::Error>>;

/// Which spec the objects of an example have.
async fn generations(scene: &Scene, directory: &str) -> Text {
    scene
        .kubectl_ok(&[
            "get",
            "-f",
            directory,
            "-o",
            "custom-columns=KIND:.kind,NAME:.metadata.name,UID:.metadata.uid,GENERATION:.metadata.generation",
        ])
        .await
}

/// Which write they come from.
async fn versions(scene: &Scene, directory: &str) -> Text {
    scene.kubectl_ok(&["get", "-f", directory, "-o", "custom-columns=KIND:.kind,NAME:.metadata.name,VERSION:.metadata.resourceVersion"]).await
}

async fn applied_twice(scene: &Scene, directory: &str, way: &[&str]) -> Outcome {
    let apply = [&["apply", "-f", directory], way].concat();
    scene.kubectl_ok(&apply).await?;
    let made = generations(scene, directory).await?;
    assert!(made.contains("AccessGrant"), "{made}");
    let second = scene.kubectl_ok(&apply).await?;
    if way.is_empty() {
        assert!(second.lines().all(|line| line.ends_with(" unchanged")), "{second}");
    }
    assert_eq!(generations(scene, directory).await?, made, "{directory}: the second apply changed something");
    // What was created is stored without a status, and the first write after it stores the default one. Then there is nothing left to write.
    let second = versions(scene, directory).await?;
    scene.kubectl_ok(&apply).await?;
    assert_eq!(versions(scene, directory).await?, second, "{directory}: the third apply wrote something");
    let diff = scene.kubectl([&["diff", "-f", directory], way].concat()).await?;
    assert_eq!((diff.code, diff.out.as_str()), (Some(0), ""), "{directory}: a perpetual diff: {}", diff.err);
    Ok(())
}

#[test]
fn examples_are_applied_once() -> Outcome {
    run(async {
        let scene = scene().await?;
        for directory in directories()? {
            applied_twice(scene, &directory, &["--server-side"]).await?;
            // Each way begins with new objects.
            let files = std::fs::read_to_string(layout::root().join(&directory).join("00-namespace.yaml"))?;
            let namespace = files.lines().find_map(|line| line.strip_prefix("  name: ")).ok_or("a namespace")?;
            scene.kubectl_ok(&["delete", KINDS, "--all", "-n", namespace]).await?;
            applied_twice(scene, &directory, &[]).await?;
        }
        Ok(())
    })
}
