//! `kuberaft chaos watch`: the load only. Whoever injects faults marks rounds over HTTP.

mod control;

use std::collections::BTreeMap;
use std::sync::Arc;

use clap::Args;
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};

use self::control::Control;
use crate::chaos::{FinalReport, Load, LoadSettings, Names, PodNames, Reach, table};
use crate::cli::chaos::health::misunderstanding;
use crate::cli::chaos::under_tls::UnderTls;
use crate::cli::client::block_on;
use crate::cli::endpoints::{Given, TlsFlags};
use crate::cli::list::{List, list};
use crate::cli::output::Layout;
use crate::cli::{CliError, endpoints, print};
use crate::config::Span;
use crate::types::Address;

const CONTROL: &str = "\
Rounds are marked over HTTP at --listen:
  POST /rounds/NAME  end the round that runs, answer with its report (204: none ran), begin NAME
  POST /rounds       end the round that runs, answer with its report
  GET /rounds        the reports of all rounds so far
  POST /finish       end the round, read everything once more, answer with the final report, exit
  GET /livez         200
Ctrl-C and SIGTERM finish, too; a second one ends at once.

Exit codes: 0 linearizable and nothing lost, 1 otherwise or failed, 2 usage";

/// The flags of `chaos watch`.
#[derive(Clone, Debug, Args)]
#[command(after_help = CONTROL)]
pub(super) struct Watch {
    /// Client addresses of all members; the name appears in messages [default: those of `kuberaft dev`]
    #[arg(long, value_name = "[NAME=]HOST:PORT,…", value_parser = list(parse_member))]
    endpoints: Vec<List<Member>>,

    /// Instead of --endpoints: the pods of this StatefulSet, found by DNS each second
    #[arg(long, value_name = "STATEFULSET", requires = "headless", conflicts_with = "endpoints")]
    pods: Option<String>,

    /// With --pods: host name of the headless Service, for example kv-kuberaft-peers.NAMESPACE.svc
    #[arg(long, value_name = "HOST", requires = "pods")]
    headless: Option<String>,

    /// With --pods: client port of each pod
    #[arg(long, value_name = "PORT", default_value_t = 7001, requires = "pods")]
    pod_port: u16,

    /// With --pods: how many pods there may be; ordinals below are looked for
    #[arg(long, value_name = "COUNT", default_value_t = 9, value_parser = clap::value_parser!(u16).range(1..=1000), requires = "pods")]
    replicas_max: u16,

    /// Client Service: the write gap is also measured by a client that only knows this
    #[arg(long, value_name = "HOST:PORT", value_parser = endpoints::parse)]
    service: Option<Given>,

    /// Where rounds are marked over HTTP; port 0 takes a free one and says which
    #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:7070")]
    listen: Address,

    /// Name of the round that begins at once
    #[arg(long, value_name = "NAME", default_value = "start")]
    first_round: String,

    /// Keys are below chaos/RUN/ [default: a random name]
    #[arg(long, value_name = "RUN")]
    run: Option<String>,

    /// Longest time for one request, connecting included; then the next member is asked
    #[arg(long, value_name = "DURATION", default_value = "1s")]
    request_timeout: Span,

    /// Clients that read and write the same few keys, judged for linearizability
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    clients: u32,

    /// How many keys these share
    #[arg(long, value_name = "COUNT", default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    keys: u32,

    /// From one request of each of these clients to its next, at least
    #[arg(long, value_name = "DURATION", default_value = "40ms")]
    interval: Span,

    /// From one of the writes that measure the gap to the next, at least; finer than this gaps cannot be told
    #[arg(long, value_name = "DURATION", default_value = "10ms")]
    pulse_interval: Span,

    /// Operations that are recorded before they are judged and other keys are taken
    #[arg(long, value_name = "COUNT", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    history_max: u32,

    /// How long to continue when nobody answers: at the start, and when everything is read back
    #[arg(long, value_name = "DURATION", default_value = "60s")]
    patience: Span,

    /// What the clients' choices come from
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    seed: u64,

    /// Leave the keys in the cluster when all is done
    #[arg(long)]
    keep: bool,

    /// Format of the final report: table or json
    #[arg(
        short,
        long,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = true
    )]
    output: Layout,

    #[command(flatten)]
    tls: TlsFlags,
}

/// A member and its client address.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Member {
    name: String,
    given: Given,
}

/// `name=host:port` or `host:port`, perhaps with `https://` before the host.
fn parse_member(text: &str) -> Result<Member, String> {
    let (name, address) = text.split_once('=').unwrap_or((text, text));
    let given = endpoints::parse(address)?;
    let name = if text.contains('=') { name.trim().to_owned() } else { given.address.to_string() };
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("`{name}` is no name: use visible ASCII characters"));
    }
    Ok(Member { name, given })
}

impl Watch {
    fn settings(&self) -> Result<LoadSettings, CliError> {
        let run = if let Some(run) = &self.run {
            run.clone()
        } else {
            let drawn = getrandom::u32();
            let drawn = drawn.map_err(|error| CliError::Failed(format!("cannot draw a name: {error}")))?;
            format!("{drawn:08x}")
        };
        Ok(LoadSettings {
            request_timeout: self.request_timeout.0,
            register_clients: self.clients,
            register_keys: self.keys,
            register_interval: self.interval.0,
            pulse_interval: self.pulse_interval.0,
            history_max: self.history_max as usize,
            patience: self.patience.0,
            seed: self.seed,
            keep: self.keep,
            ..LoadSettings::new(run)
        })
    }

    async fn members(&self) -> Result<Arc<dyn Reach>, CliError> {
        let (Some(pods), Some(headless)) = (&self.pods, &self.headless) else {
            let members = if self.endpoints.is_empty() {
                local()
            } else {
                self.endpoints.iter().flat_map(|list| list.0.clone()).collect()
            };
            return self.fixed(members).await;
        };
        let pods = PodNames {
            stateful_set: pods.clone(),
            headless: headless.clone(),
            port: self.pod_port,
            replicas_max: self.replicas_max,
        };
        let names = Names::pods(&pods).await.map_err(|error| CliError::Usage(error.to_string()))?;
        // What pods speak, and what their certificates are for, is what the Service in front of them does and is.
        let is_tls = self.service.as_ref().map_or(self.tls.are_given(), |service| service.is_tls(&self.tls));
        if !is_tls {
            return Ok(Arc::new(names));
        }
        let service = self.service.as_ref().map(|service| service.address.host.clone());
        let host_of =
            move |pod: &str| Some(service.clone().unwrap_or_else(|| format!("{pod}.{}", pods.headless)));
        Ok(Arc::new(UnderTls::new(Arc::new(names), self.tls.connector()?, Box::new(host_of))))
    }

    /// Members at addresses, each under TLS or not.
    async fn fixed(&self, members: Vec<Member>) -> Result<Arc<dyn Reach>, CliError> {
        let speaks_tls = members.iter().filter(|member| member.given.is_tls(&self.tls));
        let hosts: BTreeMap<String, String> =
            speaks_tls.map(|member| (member.name.clone(), member.given.address.host.clone())).collect();
        let addresses = members.into_iter().map(|member| (member.name, member.given.address.to_string()));
        let names = Names::fixed(addresses.collect()).await;
        let names = Arc::new(names.map_err(|error| CliError::Usage(error.to_string()))?);
        if hosts.is_empty() {
            return Ok(names);
        }
        let host_of = move |member: &str| hosts.get(member).cloned();
        Ok(Arc::new(UnderTls::new(names, self.tls.connector()?, Box::new(host_of))))
    }

    async fn service(&self) -> Result<Option<Arc<dyn Reach>>, CliError> {
        let Some(given) = self.service.clone() else { return Ok(None) };
        self.fixed(vec![Member { name: "service".to_owned(), given }]).await.map(Some)
    }
}

/// The members that `dev` starts by default.
fn local() -> Vec<Member> {
    endpoints::DEFAULT.split(',').filter_map(|address| parse_member(address).ok()).collect()
}

/// What asks this process to end.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    fn listen() -> Result<Self, CliError> {
        let listen = |kind| {
            signal(kind).map_err(|error| CliError::Failed(format!("cannot listen for signals: {error}")))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Puts load on the cluster until told to finish.
pub(super) fn run(args: &Watch) -> Result<(), CliError> {
    let settings = args.settings()?;
    let report = block_on(async {
        let mut signals = Signals::listen()?;
        let listener = listen(&args.listen).await?;
        let (members, service) = (args.members().await?, args.service().await?);
        let run = settings.run.clone();
        note!("run {run}: waiting for a member that takes writes");
        let load = tokio::select! {
            load = Load::start(Arc::clone(&members), service, settings) => load,
            why = misunderstanding(members) => return Err(CliError::Failed(why)),
            () = signals.next() => return Err(CliError::Failed("stopped before the load began".to_owned())),
        };
        let control = Control::new(load.map_err(|error| CliError::Failed(error.to_string()))?);
        // A load that has only begun is not finished.
        let _ = control.mark(Some(args.first_round.clone())).await;
        if let Ok(address) = listener.local_addr() {
            note!("load is running; rounds are marked at http://{address}/rounds");
        }
        tokio::select! {
            () = control::serve(listener, &control) => {}
            () = signals.next() => {}
        }
        tokio::select! {
            report = control.finish() => Ok(report),
            () = signals.next() => {
                Err(CliError::Failed("stopped before everything was read back: nothing is proven".to_owned()))
            }
        }
    })?;
    let printed = match args.output {
        Layout::Table => print::text(&summary(&report)),
        Layout::Json => print::json(&*report),
    };
    if report.is_clean() { printed } else { Err(CliError::Failed(report.problems().join("\n"))) }
}

async fn listen(address: &Address) -> Result<TcpListener, CliError> {
    let bound = TcpListener::bind(address.to_string()).await;
    bound.map_err(|error| CliError::Failed(format!("cannot listen at {address} (--listen): {error}")))
}

/// The final report for people.
fn summary(report: &FinalReport) -> String {
    let FinalReport { rounds, found_writes, lost_writes, unread_writes, .. } = report;
    let verdict = if report.is_clean() { "linearizable, nothing lost" } else { "FAILED" };
    let keys = match report.keys_left {
        None => format!("; the keys below chaos/{}/ are kept", report.run),
        Some(0) => String::new(),
        Some(left) => format!("; {left} keys below chaos/{}/ could not be deleted", report.run),
    };
    format!(
        "{}\n{verdict}: {} acknowledged writes; of those that were written once, {found_writes} read at the end, \
         {lost_writes} lost, {unread_writes} not readable{keys}\n",
        table(rounds),
        report.acknowledged_writes
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_have_names_or_are_called_by_their_address() {
        let member = parse_member("kv-0=10.0.0.1:7001").unwrap();
        assert_eq!(
            (member.name.as_str(), member.given.address.to_string().as_str()),
            ("kv-0", "10.0.0.1:7001")
        );
        assert_eq!(parse_member("http://a:1/").unwrap().name, "a:1");
        assert_eq!(parse_member("a=https://b:1").unwrap().given.address.to_string(), "b:1");
        assert!(parse_member("=a:1").unwrap_err().contains("no name"));
        assert!(parse_member("a=b").unwrap_err().contains("expected host:port"));
        assert_eq!(local().len(), 3);
    }
}
