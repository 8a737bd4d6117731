/** What can be done with a prompt, and the fields that it is submitted with. */

/** What a prompt's fields are in a submit or an edit. */
export function fieldsOf(prompt) {
  const fields = { model: prompt.model, text: prompt.text, ...(prompt.settings ?? {}) };
  if (prompt.system_prompt) fields.system_prompt = prompt.system_prompt;
  if (prompt.priority && prompt.priority !== "normal") fields.priority = prompt.priority;
  return fields;
}

/** Whether it was sent, and nobody has answered yet. */
export function mayBeThere(entries) {
  return entries.some(({ kind, wasSent, error }) => kind === "submit" && wasSent && !error);
}

/** What can be done now with a row of the list (mirror.js, merged); the server has the last word. */
export function abilities({ prompt, status, entries }) {
  const isLeaving = entries.some((entry) => entry.kind === "delete");
  const isSent = mayBeThere(entries);
  const isHere = ["here", "refused"].includes(status.state);
  const { isOnlyHere } = prompt;
  const isOpen = ["queued", "sending"].includes(status.state) || (status.state === "here" && isSent);
  return {
    followUp: status.state === "done" && !isOnlyHere,
    edit: (isHere || status.state === "queued") && !isLeaving,
    retry: ["failed", "cancelled"].includes(status.state) && !status.note,
    cancel: isOpen && !status.note,
    repeat: ["done", "failed", "cancelled"].includes(prompt.state) && !isHere,
    sendAgain: status.error?.code === "lost" && !status.error.isCut,
    remove: !isLeaving,
  };
}
