// What the node answered to a button.
import { byId, setText } from "./parts.js";

export function answer(text) {
  const line = byId("answer");
  line.hidden = !text;
  setText(line, text);
}
