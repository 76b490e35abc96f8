//! `kuberaft dev`.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::backup::{fail, succeed};
use super::cluster::{directory, program};
use super::{alone, until};

/// The first of so many ports that are free, one after the other.
fn base_port(count: u16) -> u16 {
    until("ports in a row are free", || {
        let first = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
        (first < u16::MAX - count && (first..first + count).all(is_free)).then_some(first)
    })
}

/// A `dev` and its nodes, which end with it.
struct Dev(Child);

impl Dev {
    fn start(directory: &Path, base_port: u16) -> Self {
        let mut command: Command = program(&[], directory);
        command.args(["dev", "--base-port", &base_port.to_string()]);
        Self(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap())
    }

    /// Process ids of the nodes.
    fn nodes(&self) -> Vec<i32> {
        let id = self.0.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap_or_default();
        children.split_whitespace().map(|id| id.parse().unwrap()).collect()
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let id = Pid::from_raw(i32::try_from(self.0.id()).unwrap()).unwrap();
        let _ = kill_process(id, Signal::TERM);
        let _ = self.0.wait();
    }
}

#[test]
fn fresh_deletes_nothing_before_all_ports_are_free() {
    let _alone = alone();
    let directory = directory();
    let base = base_port(6);
    let folder = directory.path().join("kuberaft-dev");
    fs::create_dir_all(folder.join("1")).unwrap();
    fs::write(folder.join("dev.toml"), "nodes = 3\n").unwrap();
    fs::write(folder.join("1/data"), "precious").unwrap();
    let _taken = TcpListener::bind(("127.0.0.1", base + 5)).unwrap();
    let told = fail(directory.path(), &["dev", "--fresh", "--base-port", &base.to_string()], 1);
    assert!(told.contains("is in use by another process"), "{told}");
    assert_eq!(fs::read_to_string(folder.join("1/data")).unwrap(), "precious");
}

#[test]
fn a_node_that_was_killed_is_started_again() {
    let _alone = alone();
    let directory = directory();
    let base = base_port(6);
    let endpoints = [1, 3, 5].map(|offset| format!("127.0.0.1:{}", base + offset)).join(",");
    let dev = Dev::start(directory.path(), base);
    let ready = ["status", "--members", "--wait", "60s", "--endpoints", &endpoints];
    succeed(directory.path(), &ready);
    let before = dev.nodes();
    assert_eq!(before.len(), 3);
    kill_process(Pid::from_raw(before[0]).unwrap(), Signal::KILL).unwrap();
    until("another process takes its place", || {
        let now = dev.nodes();
        (now.len() == 3 && !now.contains(&before[0])).then_some(())
    });
    succeed(directory.path(), &ready);
}
