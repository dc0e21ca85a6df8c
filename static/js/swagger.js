// The API page: Swagger UI over the document of this server. Calls of the administration go with the reader's session
// (the browser sends its cookie, this adds the token that changes need) or with a token from the Authorize button; calls
// of the proxy go with a client key from there.

const box = document.getElementById("swagger");
const list = document.getElementById("call-list");
const waiting = document.getElementById("swagger-waiting");

// -- colors -----------------------------------------------------------------------------------------

const root = document.documentElement;
const systemIsDark = matchMedia("(prefers-color-scheme: dark)");

function followTheme() {
  const chosen = root.dataset.theme;
  root.classList.toggle("dark-mode", chosen ? chosen === "dark" : systemIsDark.matches);
}
new MutationObserver(followTheme).observe(root, { attributeFilter: ["data-theme"] });
systemIsDark.addEventListener("change", followTheme);
followTheme();

// -- calls ------------------------------------------------------------------------------------------

const CHANGES = ["POST", "PUT", "PATCH", "DELETE"];

/** The token that changes of this session send; empty for readers without a session. */
async function csrfToken() {
  const answer = await fetch("/middleware/api/session", { headers: { Accept: "application/json" } });
  return answer.ok ? (await answer.json()).csrf_token : "";
}

/** Add the session's token to changes of the administration of this very server, and to nothing else. */
export async function withToken(request) {
  const address = new URL(request.url, location.href);
  const ours = address.origin === location.origin && address.pathname.startsWith("/middleware/");
  if (ours && CHANGES.includes((request.method ?? "GET").toUpperCase())) {
    const token = await csrfToken();
    if (token) request.headers["X-CSRF-Token"] ??= token;
  }
  return request;
}

// -- what Swagger UI leaves out for who cannot see or point -----------------------------------------

const BARRIERS = {
  wrapComponents: {
    // A link inside of the button that opens a call; the address follows the button anyway.
    DeepLink: (_own, system) => ({ text }) => system.React.createElement("span", null, text),
    TextArea: (Own, system) => (props) => system.React.createElement(Own, { "aria-label": "Body", ...props }),
  },
};

const nameChoices = () => {
  for (const choice of box.querySelectorAll(".examples-select-element:not([aria-label])")) choice.setAttribute("aria-label", "Example");
};

// -- the page ---------------------------------------------------------------------------------------

if (window.SwaggerUIBundle) {
  list.hidden = true;
  waiting.hidden = false;
  new MutationObserver(nameChoices).observe(box, { childList: true, subtree: true });
  window.SwaggerUIBundle({
    url: box.dataset.document,
    domNode: box,
    presets: [window.SwaggerUIBundle.presets.apis],
    plugins: [() => BARRIERS],
    layout: "BaseLayout",
    deepLinking: true,
    docExpansion: "none",
    defaultModelsExpandDepth: 0,
    defaultModelExpandDepth: 2,
    displayRequestDuration: true,
    filter: true,
    persistAuthorization: false,
    tryItOutEnabled: true,
    validatorUrl: null,
    requestInterceptor: withToken,
    onComplete: () => { waiting.hidden = true; },
  });
}
