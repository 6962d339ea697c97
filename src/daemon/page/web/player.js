// The player: what a browser plays, from storage or while it is being fetched.

import { contentUrl, get } from "./api.js";
import { toast } from "./dialog.js";
import { fill, h, isolated, setText } from "./dom.js";
import { bytes, clean } from "./format.js";
import { icon } from "./icons.js";

const AUDIO = ["aac", "flac", "m4a", "m4b", "mka", "mp3", "oga", "ogg", "opus", "wav", "weba"];
const VIDEO = ["3gp", "m4v", "mkv", "mov", "mp4", "ogv", "webm"];

const extension = (path) => /\.([^./]+)$/.exec(path)?.[1].toLowerCase() ?? "";
export const isPlayable = (path) => AUDIO.includes(extension(path)) || VIDEO.includes(extension(path));
export const playLink = (importId, number) => `#/play/${encodeURIComponent(importId)}/${number}`;
export const fileLink = contentUrl;

/** The player in `main`. */
export function showPlayer(main, importId, number) {
  let media = null;
  let left = false;
  const start = async () => {
    try {
      const info = await get(`imports/${encodeURIComponent(importId)}`);
      if (!left) media = showFile(main, info, number);
    } catch (problem) {
      if (!left) fill(main, h("div", { class: "empty" }, h("h1", null, "Nothing to play"), h("p", null, isolated(clean(problem.message))), h("p", null, h("a", { href: "#/" }, "All downloads"))));
    }
  };
  start();
  const seek = (seconds) => () => media && (media.currentTime = Math.max(0, media.currentTime + seconds));
  return {
    keys: {
      " ": () => media && (media.paused ? media.play().catch(() => {}) : media.pause()),
      ArrowLeft: seek(-10),
      ArrowRight: seek(10),
      m: () => media && (media.muted = !media.muted),
      f: () => media?.requestFullscreen?.().catch(() => {}),
      Escape: () => history.back(),
    },
    leave() {
      left = true;
      // Ends the request of the bytes.
      media?.removeAttribute("src");
      media?.load();
    },
  };
}

function showFile(main, info, number) {
  const playable = info.file_list.filter((file) => file.selected && isPlayable(file.path));
  const file = playable.find((candidate) => candidate.number === number);
  if (!file) throw new Error("the import has no such file for a player");
  const index = playable.indexOf(file);
  const name = clean(file.path.split("/").pop());
  document.title = `${name} – bae`;
  const url = contentUrl(info.id, file.path);
  const isVideo = VIDEO.includes(extension(file.path));
  const message = h("p", { class: "player-message", role: "status" });
  const media = h(isVideo ? "video" : "audio", { controls: true, autoplay: true, preload: "metadata", "aria-label": name, src: url }, isVideo ? subtitles(info, file) : null);
  media.addEventListener("error", () => showError(media, message));
  media.addEventListener("waiting", () => setText(message, "Waiting for bytes…"));
  for (const event of ["playing", "pause", "canplay"]) media.addEventListener(event, () => setText(message, ""));
  media.addEventListener("ended", () => playable[index + 1] && (location.hash = playLink(info.id, playable[index + 1].number)));
  const link = (target, label, image) => (target ? h("a", { class: "button secondary", href: playLink(info.id, target.number) }, icon(image), ` ${label}`) : null);
  fill(
    main,
    h("p", null, h("button", { type: "button", class: "link back", onclick: () => history.back() }, icon("back"), " Back")),
    h("section", { class: "card player", "aria-label": "Player" }, h("h1", null, isolated(name)), h("p", { class: "figures" }, isolated(clean(info.name)), ` · ${bytes(file.bytes)}`), media, message,
      h("div", { class: "buttons wrap" }, link(playable[index - 1], "Previous", "back"), link(playable[index + 1], "Next", "play"), h("button", { type: "button", class: "secondary", onclick: () => copy(url) }, "Copy the address"))),
  );
  return media;
}

/** WebVTT files beside a film. */
function subtitles(info, film) {
  const stem = film.path.slice(0, film.path.lastIndexOf("."));
  const texts = info.file_list.filter((file) => file.selected && file.path.startsWith(`${stem}.`) && extension(file.path) === "vtt");
  return texts.map((file) => {
    const label = clean(file.path.slice(stem.length + 1).replace(/\.?vtt$/i, "")) || "subtitles";
    return h("track", { kind: "subtitles", src: contentUrl(info.id, file.path), label });
  });
}

function showError(media, message) {
  if (!media.getAttribute("src")) return;
  const isFormat = media.error?.code === MediaError.MEDIA_ERR_SRC_NOT_SUPPORTED || media.error?.code === MediaError.MEDIA_ERR_DECODE;
  const text = isFormat ? "The browser cannot play this file. Copy its address into a player, with the token as the password." : "The bytes did not come. The storage or the daemon may be away.";
  setText(message, text);
}

async function copy(url) {
  try {
    await navigator.clipboard.writeText(url);
    toast("The address was copied.");
  } catch {
    toast(url);
  }
}
