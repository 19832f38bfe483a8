/** The bundled models' chat template (chat_template.jinja) without its parts on tools. */

import { QwenError } from "./errors.js";

/**
 * The text of a conversation, as the model was trained to read it.
 * @param {{role: "system"|"user"|"assistant", content: string, reasoning_content?: string}[]} messages; a thought may
 *   also stand in the content of an assistant's message, between <think> and </think>
 * @param {object} [options] thinking: false starts the reply with an empty thought, so that the model answers at once;
 *   addGenerationPrompt: false does not start a reply
 * @throws {QwenError} bad-messages
 */
export function renderChat(messages, { thinking = true, addGenerationPrompt = true } = {}) {
  if (!(Array.isArray(messages) && messages.length && messages.every(isTurn)))
    throw new QwenError("bad-messages", "A message has a role (system, user or assistant) and a text as content.");
  const lastQuestion = messages.map(isQuestion).lastIndexOf(true);
  const turns = messages.map((message, place) => {
    const isNewest = lastQuestion >= 0 && place > lastQuestion, isLast = place === messages.length - 1;
    const content = message.role === "assistant" ? reply(message, isNewest, isLast) : message.content;
    return `<|im_start|>${message.role}\n${content}<|im_end|>\n`;
  });
  if (addGenerationPrompt) turns.push("<|im_start|>assistant\n", thinking ? "" : "<think>\n\n</think>\n\n");
  return turns.join("");
}

const ROLES = ["system", "user", "assistant"];
const isTurn = (message) => ROLES.includes(message?.role) && typeof message.content === "string";

/** Whether this is what a user said, and not the result of a tool. */
const isQuestion = ({ role, content }) =>
  role === "user" && !(content.startsWith("<tool_response>") && content.endsWith("</tool_response>"));

/** An assistant's turn. The thought is shown behind the last question only; older ones are left out. */
function reply({ content, reasoning_content: thought }, isNewest, isLast) {
  if (typeof thought !== "string") {
    const parts = content.split("</think>");
    thought = parts.length > 1 ? parts[0].split("<think>").at(-1) : "";
    if (parts.length > 1) content = parts.at(-1).replace(/^\n+/, "");
  }
  if (!isNewest || !(isLast || thought)) return content;
  return `<think>\n${thought.replace(/^\n+|\n+$/g, "")}\n</think>\n\n${content.replace(/^\n+/, "")}`;
}
