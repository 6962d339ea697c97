// The login: a token becomes a session, whose cookie no script can read.

import { post } from "./api.js";
import { field, fill, h, setText } from "./dom.js";

/** Shows the login in `main`. `onDone` gets the role. */
export function showLogin(main, onDone) {
  const token = h("input", {
    type: "password",
    name: "token",
    autocomplete: "current-password",
    required: true,
    spellcheck: "false",
    autocapitalize: "none",
  });
  // Password managers want a name beside a password.
  const user = h("input", { type: "text", name: "username", value: "bae", autocomplete: "username", hidden: true });
  const error = h("p", { class: "error-text", role: "alert" });
  const button = h("button", { type: "submit" }, "Log in");
  const submit = async (event) => {
    event.preventDefault();
    button.disabled = true;
    setText(error, "");
    try {
      const { role } = await post("session", { token: token.value });
      token.value = "";
      onDone(role);
    } catch (problem) {
      const text = problem.status === 429 ? "Too many wrong tokens. Wait a minute and try again." : `Not logged in: ${problem.message}.`;
      setText(error, text);
      token.select();
    } finally {
      button.disabled = false;
    }
  };
  fill(
    main,
    h(
      "form",
      { class: "login card", onsubmit: submit },
      h("h1", null, "bae"),
      user,
      field("Token", token, "The daemon showed it at its first start. It is in the file api-token of the data folder."),
      error,
      button,
    ),
  );
  token.focus();
}
