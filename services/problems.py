"""What each problem means and what helps: the text behind the `type` of an error answer (`/problems/<slug>`)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One kind of problem. `remedy` is what the caller can do."""

    title: str
    meaning: str
    remedy: str


_READ_AGAIN = "Read the thing again, decide again, and repeat the call with what you have now."
_CORRECT = (
    "Correct the request; nothing was stored. `errors` names each fault with a JSON pointer to its place."
)

PROBLEMS: dict[str, Problem] = {
    "being-written": Problem(
        "It is being written",
        "A task is writing this article, so it cannot be changed by hand now.",
        "Wait until the task asks for a review, or cancel the task.",
    ),
    "body-too-large": Problem(
        "Too large", "The body is longer than this address accepts.", "Send less, or send it in several calls."
    ),
    "bulk-operation-ended": Problem(
        "It is over",
        "This bulk operation is done, or it failed, so there is nothing left to stop.",
        "Look at its counts; what it did stays done.",
    ),
    "busy": Problem(
        "Busy",
        "Something else held what the request needed, or it took longer than a request may.",
        "Repeat it after the seconds in Retry-After; with an Idempotency-Key that is always safe.",
    ),
    "confirmation-expired": Problem(
        "The preview is too old",
        "What was shown more than 15 minutes ago may have changed.",
        "Ask for a new preview, look at its counts, and confirm that.",
    ),
    "confirmation-invalid": Problem(
        "Not a confirmation of yours",
        "A confirmation works unchanged, for whoever asked for the preview, in the same tenant.",
        "Ask for a preview yourself.",
    ),
    "conflict": Problem("Not possible in this state", "The thing is in a state that does not allow this.", _READ_AGAIN),
    "csrf": Problem(
        "Not sent by our pages",
        "A change that comes with the cookie of a session must come from a page of this site and carry its token.",
        "Open the page again and repeat. Programs send an API key instead of a cookie.",
    ),
    "dead-letter-handled": Problem(
        "Somebody was first",
        "Each dead letter is requeued or discarded once; `detail` says who did what, and as which task it goes on.",
        "Look at its successor. To run the task once more anyway, requeue it as a task.",
    ),
    "forbidden": Problem(
        "Not allowed", "You are known, but your role may not do this.", "Ask an admin of your tenant for the role that is named."
    ),
    "idempotency-key-in-use": Problem(
        "The first call is still under way",
        "Another call with this Idempotency-Key has not ended yet.",
        "Repeat the same call after a second: it will get the first call's answer.",
    ),
    "idempotency-key-invalid": Problem(
        "Not a key", "An Idempotency-Key has 1 to 255 printable ASCII characters, bare or in quotes.", "Send a UUID, for example."
    ),
    "idempotency-key-reused": Problem(
        "The key stands for another request",
        "This Idempotency-Key was used within 24 hours for a call with another body or address.",
        "Use a new key for a new request, and the same key only to repeat one.",
    ),
    "internal-error": Problem(
        "Something went wrong", "A fault of the server. It was recorded under the request's id.", "Tell the operator the request_id."
    ),
    "invalid-cursor": Problem(
        "Not a cursor of this list",
        "A cursor works unchanged, in the list and tenant that gave it out.",
        "Start again without `cursor`.",
    ),
    "json-limits": Problem(
        "Past a limit of JSON", "Objects and arrays may be nested 32 deep, and numbers have 4,300 digits at most.", "Send a flatter body."
    ),
    "malformed": Problem("The request cannot be read", "The request is not HTTP as it is written down, or a part of it is impossible.", "Correct the client."),
    "malformed-json": Problem(
        "Not JSON",
        "The body is not JSON in UTF-8. NaN, numbers too large to be finite, and names given twice in one object are not JSON either.",
        "Correct the body; `detail` says what was found where.",
    ),
    "method-not-allowed": Problem("Another method", "This address answers other methods.", "Use one of those in the header Allow."),
    "name-taken": Problem("The name is taken", "Another one of the tenant's has this name.", "Choose another name, or change the one that has it."),
    "not-approved": Problem("Not approved", "Only the approved latest version can be published.", "Ask for a decision first."),
    "not-found": Problem(
        "Not found", "There is nothing at this address, or nothing that you may see: both answer the same.", "Check the id and the tenant of your key."
    ),
    "not-operating": Problem(
        "Not for this tenant",
        "Queues and executors belong to the installation, and your tenant does not operate it.",
        "Ask an operator of a tenant that does, or have it given to yours: main.py tenant operate NAME.",
    ),
    "not-published": Problem("Not published", "What is not on the site cannot be taken off it.", "Nothing needs to be done."),
    "own-work": Problem("Own work", "This tenant wants four eyes: nobody decides about what they wrote themselves.", "Ask somebody else to decide."),
    "precondition-failed": Problem("It has changed since", "If-Match or the content hash names something older than what is there now.", _READ_AGAIN),
    "precondition-required": Problem(
        "Say which version you mean", "This change needs the header If-Match.", "Send the ETag of what you saw."
    ),
    "queue-busy": Problem(
        "The queue is being used",
        "Tasks were being put into the queue or claimed from it at that very moment.",
        "Repeat the call after the seconds in Retry-After.",
    ),
    "queue-exists": Problem(
        "There is such a queue",
        "A queue of this name is there already.",
        "Change its limits instead, or choose another name.",
    ),
    "queue-in-use": Problem(
        "The queue is in use",
        "It has live tasks, or a type of task goes there unless told otherwise.",
        "Cancel its tasks or wait until they have ended. A queue that types go to by themselves stays.",
    ),
    "quota-exceeded": Problem("Too many requests", "More calls than are allowed in this time.", "Wait for the seconds in Retry-After."),
    "refused": Problem("Refused", "The server does not answer requests of this kind.", "Correct the client."),
    "request-timeout": Problem("Too slow", "The request did not arrive in time.", "Send it again, faster or in smaller parts."),
    "review-ended": Problem("Already decided", "This review has been decided or was closed.", "Look at the article: a newer version may wait for a decision."),
    "rule-is-general": Problem(
        "Every tenant has this rule", "A rule about everything a tenant does is always there.", "Switch it off: `enabled` false."
    ),
    "rule-taken": Problem(
        "There is one already", "There is one alert rule of each kind for a queue, a type, or everything.", "Change that one."
    ),
    "schedule-deleted": Problem(
        "The schedule was deleted", "It ticks no more and cannot be changed; what became of its ticks can be read.", "Make a new one; its name is free."
    ),
    "stale-attempt": Problem("No longer the owner", "The run that wanted to write had lost its task.", "Nothing: the task has gone on without it."),
    "task-busy": Problem("Being written to", "The task's row is held by a write that takes longer than usual.", "Repeat it after a second."),
    "task-ended": Problem("The task has ended", "It succeeded, failed, timed out or was cancelled before.", "Requeue it if it is to run again."),
    "task-live": Problem("The task has not ended", "Only a task that has ended can be requeued.", "Cancel it first, or wait."),
    "temporary-reduced-capacity": Problem(
        "Not available right now", "Something this needs, usually the database or the model, is not answering.", "Repeat it after the seconds in Retry-After."
    ),
    "too-large": Problem("Too large", "A stated limit on size was passed.", "Send less."),
    "unauthenticated": Problem(
        "Nobody is known to be calling",
        "There was no key, or it is unknown, has expired or was revoked.",
        "Send `Authorization: Bearer <api key>`, or sign in.",
    ),
    "unknown-queue": Problem("No such queue", "Tasks go into queues that exist.", "Use one of those in `detail`, or none for the type's own."),
    "unknown-task-type": Problem("No such task type", "Each type of task is a file of this installation.", "Use one of those in `detail`."),
    "unsupported-media-type": Problem(
        "Not a kind of content that is accepted here", "Bodies are JSON in UTF-8, bare or packed with gzip or deflate.", "Send `Content-Type: application/json`."
    ),
    "validation": Problem("The request is not valid", "The request can be read, but breaks a rule.", _CORRECT),
}  # fmt: skip
