// Where the page begins.
import { mount } from "svelte";

import App from "./App.svelte";
import "./theme.css";

const target = document.getElementById("herd");
if (target) mount(App, { target });
