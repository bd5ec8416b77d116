//! What a thread is for.

/// The role that a thread's name tells, or the name. Firecracker calls its main thread after itself, which
/// runs the devices; `fc_api` serves its API, and `fc_vcpu N` runs a guest CPU.
pub fn role(process_comm: &str, comm: &str) -> String {
    match comm {
        "firecracker" => "main, devices and snapshots".to_owned(),
        "fc_api" => "API".to_owned(),
        _ => match comm.strip_prefix("fc_vcpu ") {
            Some(index) => format!("vCPU {index}"),
            None if comm == process_comm => format!("main of {comm}"),
            None => comm.to_owned(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::role;

    #[test]
    fn firecrackers_threads_have_roles_and_others_their_names() {
        assert_eq!(role("firecracker", "fc_vcpu 1"), "vCPU 1");
        assert_eq!(role("firecracker", "fc_api"), "API");
        assert!(role("firecracker", "firecracker").contains("snapshots"));
        assert_eq!(role("nginx", "worker"), "worker");
    }
}
