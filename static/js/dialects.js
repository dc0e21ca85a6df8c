// How answers are read in each wire format: the text, the tokens and the error in a whole answer or in one event.
// Pure: objects in, `{text, input, output, error, end}` out; whatever is not there stays undefined.

const joined = (parts) => (parts ?? []).map((part) => part?.text ?? "").join("");

const openaiChat = (answer) => ({
  text: (answer.choices ?? []).map((choice) => (choice.message ?? choice.delta)?.content ?? (choice.message ?? choice.delta)?.refusal ?? "").join(""),
  input: answer.usage?.prompt_tokens,
  output: answer.usage?.completion_tokens,
});

const outputText = (answer) => (answer.output ?? []).map((item) => (item.content ?? []).map((part) => part.text ?? part.refusal ?? "").join("")).join("");

function openaiResponses(answer) {
  const whole = answer.response ?? (answer.object === "response" ? answer : undefined);
  const text = whole === answer ? outputText(answer) : /^response\.(output_text|refusal)\.delta$/.test(answer.type) ? answer.delta : "";
  const error = whole?.error ?? (answer.type === "error" ? answer : undefined);
  return { text, input: whole?.usage?.input_tokens, output: whole?.usage?.output_tokens, error };
}

function anthropicMessages(answer) {
  if (answer.type === "message_start") return { text: "", input: answer.message?.usage?.input_tokens, output: answer.message?.usage?.output_tokens };
  if (answer.type === "content_block_delta") return { text: answer.delta?.text ?? "" };
  return { text: joined(answer.content), input: answer.usage?.input_tokens, output: answer.usage?.output_tokens };
}

const gemini = (answer) => ({
  text: (answer.candidates ?? []).map((candidate) => joined((candidate.content?.parts ?? []).filter((part) => !part.thought))).join(""),
  input: answer.usageMetadata?.promptTokenCount,
  output: answer.usageMetadata?.candidatesTokenCount,
});

const READERS = { openai_chat: openaiChat, openai_responses: openaiResponses, anthropic_messages: anthropicMessages, gemini };

/** What a whole answer, or the data of one event, says in this wire format. */
export function read(dialect, answer) {
  if (answer === null || typeof answer !== "object") return { text: "" };
  const found = READERS[dialect](Array.isArray(answer) ? answer[0] ?? {} : answer);
  return { ...found, error: found.error ?? answer.error ?? undefined };
}

/** Cuts a stream of text into the data of server-sent events; the rest waits for more. */
export class Events {
  #rest = "";

  /** The data of the events that are complete now. */
  feed(text) {
    this.#rest += text;
    const blocks = this.#rest.split(/\r\n\r\n|\n\n|\r\r/);
    this.#rest = blocks.pop();
    return blocks.map((block) => block.split(/\r\n|\n|\r/).filter((line) => line.startsWith("data:")).map((line) => line.slice(5).replace(/^ /, "")).join("\n")).filter(Boolean);
  }
}
