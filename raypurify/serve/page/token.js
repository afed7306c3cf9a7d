// The endpoint's token: asked for where it wants one, kept for this tab, never part of an address.

const KEPT = "raypurify-token";
const wanted = document.body.dataset.token === "asked";
const at = (id) => document.getElementById(id);

export const token = () => (wanted ? sessionStorage.getItem(KEPT) : null);
export const tokenLacks = () => wanted && !token();

export function watchToken(given) {
  at("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    const text = at("token").value.trim();
    if (!text) return;
    sessionStorage.setItem(KEPT, text);
    at("token").value = "";
    showToken();
    at("file").focus();
    given();
  });
  at("forget").addEventListener("click", askForToken);
  showToken();
}

export function askForToken() {
  sessionStorage.removeItem(KEPT);
  showToken();
  at("token").focus();
}

function showToken() {
  at("token-form").hidden = !tokenLacks();
  at("token-set").hidden = !token();
}
