// What all parts of the page share: who is logged in, and what changes rarely.

import { get } from "./api.js";

export const state = {
  /** "admin", "reader" or "none". */
  role: "none",
  settings: null,
  storages: [],
  categories: {},
};

export const isAdmin = () => state.role === "admin";

/** Reads what changes rarely. */
export async function refreshSettings() {
  const [settings, storages, categories] = await Promise.all([get("settings"), get("storages"), get("categories")]);
  Object.assign(state, { settings, storages, categories });
}
