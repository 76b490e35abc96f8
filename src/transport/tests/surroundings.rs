//! What else has a say before a cluster is formed is asked first, at each step.

use std::pin::Pin;

use tokio::sync::watch;

use super::*;
use crate::transport::{Answer, Surroundings};

/// Says no as often as it is told to, and then continues with the next step.
struct Reluctant {
    cluster: InitialCluster,
    /// The step up to which it agrees.
    agrees: watch::Receiver<u8>,
    asked_to_form: watch::Sender<Option<ClusterId>>,
}

impl Reluctant {
    fn step<T: Send + 'static>(&self, step: u8, answer: T, why: &str) -> Answer<'_, T> {
        let answer = if *self.agrees.borrow() >= step { Ok(answer) } else { Err(why.to_owned()) };
        Box::pin(std::future::ready(answer))
    }
}

impl Surroundings for Reluctant {
    fn expected(&self) -> Answer<'_, InitialCluster> {
        self.step(1, self.cluster.clone(), "nobody is expected")
    }

    fn may_intend(&self) -> Answer<'_, ()> {
        self.step(2, (), "the latch is filled")
    }

    fn may_form(&self, cluster_id: ClusterId) -> Answer<'_, ()> {
        self.asked_to_form.send_replace(Some(cluster_id));
        self.step(3, (), "the latch cannot be filled")
    }

    fn is_untold(&self) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::ready(false))
    }
}

#[tokio::test]
async fn nothing_is_made_durable_or_told_before_the_surroundings_agree() {
    let addresses = Addresses::default();
    let a = start(&addresses, "a", 1, Arc::default()).await;
    let b = start(&addresses, "b", 2, Arc::default()).await;
    let c = start(&addresses, "c", 3, Arc::default()).await;
    let members = NAMES.map(|name| InitialMember { name: name.into(), address: name.into() });
    let cluster = InitialCluster::new(members.into()).unwrap();
    let (agree, agrees) = watch::channel(0);
    let asked_to_form = watch::Sender::new(None);
    let mut intended = asked_to_form.subscribe();
    let entrance = Entrance {
        surroundings: Arc::new(Reluctant { cluster, agrees, asked_to_form }),
        policy: JoinPolicy::Always,
        name_in_use_max: Duration::ZERO,
    };
    let forming = tokio::spawn({
        let (service, resolver) = (a.service.clone(), a.addresses.resolver());
        async move { bootstrap(&service, &entrance, &resolver, &settings()).await }
    });
    let (b_forms, c_forms) = (b.bootstrap(), c.bootstrap());

    a.wait_for_reason("nobody is expected").await;
    agree.send_replace(1);
    a.wait_for_reason("the latch is filled").await;
    assert_eq!(*a.disk.standing.lock().unwrap(), Standing::Empty);
    agree.send_replace(2);
    a.wait_for_reason("the latch cannot be filled").await;
    let id = intended.wait_for(Option::is_some).await.unwrap().unwrap();
    assert_eq!(a.disk.standing.lock().unwrap().cluster_id(), Some(id));
    for peer in [&b, &c] {
        assert_eq!(*peer.disk.standing.lock().unwrap(), Standing::Empty, "told too early");
    }
    agree.send_replace(3);
    for formed in [forming, b_forms, c_forms] {
        assert_eq!(formed.await.unwrap().unwrap().cluster_id, id);
    }
}
