//! The pure core stays pure: nothing that waits or talks is in its dependency tree.

use std::process::Command;

#[test]
fn nothing_async_and_no_client() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--locked", "--offline", "-p", "aifactory-plan", "-e", "normal", "--prefix", "none"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    let tree = String::from_utf8(output.stdout).expect("text");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(tree.contains("aifactory-api") && tree.contains("k8s-openapi"), "{tree}");
    for forbidden in ["tokio", "hyper", "kube-client", "kube-runtime", "reqwest", "rustls"] {
        let found: Vec<&str> = tree.lines().filter(|line| line.split(' ').next() == Some(forbidden)).collect();
        assert!(found.is_empty(), "aifactory-plan depends on {forbidden}");
    }
}
