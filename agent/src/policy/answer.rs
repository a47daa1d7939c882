//! Answers the policy verbs: asks the core for copies, reads the kernel, and works off the core's task.

use tokio::sync::{mpsc, oneshot};

use super::place::{Destination, Place};
use super::state::Known;
use super::view::{PolicyAnswer, PolicyQuestion};
use super::{PolicyState, explain, list, show, trial};
use crate::conntrack;
use crate::message::Message;

/// How often the state is asked for again where another was published while the kernel was read.
const TRIES: usize = 5;

/// Answers one question.
///
/// # Errors
/// In words that say what to do.
pub(crate) async fn answer(
    core: &mpsc::Sender<Message>,
    question: PolicyQuestion,
) -> Result<PolicyAnswer, String> {
    let known = know(core).await?;
    match question {
        PolicyQuestion::List => off_task(move || Ok(PolicyAnswer::List(list::list(&known)))).await,
        PolicyQuestion::Show { pod } => {
            let place: Place = pod.parse()?;
            off_task(move || {
                let view = show::show(&known, &place)?;
                Ok(PolicyAnswer::Show(Box::new(view)))
            })
            .await
        }
        PolicyQuestion::Explain { from, to } => {
            let (from, to): (Place, Destination) = (from.parse()?, to.parse()?);
            let own = conntrack::own_addresses().map_err(|error| format!("{error:#}"))?;
            off_task(move || {
                let view = explain::explain(&known, &own, &from, &to)?;
                Ok(PolicyAnswer::Explain(view))
            })
            .await
        }
        PolicyQuestion::Try { file, text, delete } => {
            let flows = conntrack::flows()
                .await
                .map_err(|error| format!("{error:#}"));
            off_task(move || {
                let view = trial::try_manifest(&known, flows, (&file, &text), delete)?;
                Ok(PolicyAnswer::Try(Box::new(view)))
            })
            .await
        }
    }
}

/// The published state and what the kernel holds of it. Under a storm of changes the two may be some changes apart.
async fn know(core: &mpsc::Sender<Message>) -> Result<Known, String> {
    let mut tries = 1;
    loop {
        match ask(core).await?.with_kernel().await {
            Ok(known) => return Ok(known),
            Err(known) if tries == TRIES => return Ok(known),
            Err(_) => tries += 1,
        }
    }
}

async fn ask(core: &mpsc::Sender<Message>) -> Result<PolicyState, String> {
    let stopping = || "the agent is stopping".to_owned();
    let (reply, state) = oneshot::channel();
    let sent = core.send(Message::Policy(reply)).await;
    sent.map_err(|_| stopping())?;
    let state = state.await.map_err(|_| stopping())?;
    if !state.in_sync {
        return Err("the sources are not in sync yet: try again in a moment".to_owned());
    }
    Ok(state)
}

/// Works where it holds up nobody.
async fn off_task(
    work: impl FnOnce() -> Result<PolicyAnswer, String> + Send + 'static,
) -> Result<PolicyAnswer, String> {
    let worked = tokio::task::spawn_blocking(work).await;
    worked
        .map_err(|_| "the question could not be worked out: the agent's log says why".to_owned())?
}
