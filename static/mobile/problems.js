/** What is wrong with a prompt, by the server's rules, so that nothing is refused hours later. */

const MAX_TEXT = 1_000_000; // characters
const MAX_TOKENS = 10_000_000;

/** [[field, what is wrong and what to do], …] */
export function problemsOf({ model, text, temperature, max_output_tokens: longest }) {
  const isGiven = (value) => value !== undefined && value !== null;
  const isCount = Number.isInteger(longest) && longest >= 1 && longest <= MAX_TOKENS;
  const rules = [
    ["model", !model, "Choose a model."],
    ["text", !text.trim(), "Write a prompt; this one is empty."],
    ["text", [...text].length > MAX_TEXT, "The prompt is longer than 1,000,000 characters. Shorten it."],
    [
      "temperature",
      isGiven(temperature) && !(temperature >= 0 && temperature <= 2),
      "Temperature must be a number from 0 to 2, or left empty.",
    ],
    [
      "max_output_tokens",
      isGiven(longest) && !isCount,
      "Longest answer must be a whole number of tokens from 1, or left empty.",
    ],
  ];
  return rules.filter(([, isBroken]) => isBroken).map(([name, , message]) => [name, message]);
}
