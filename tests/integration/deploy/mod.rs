//! What is deployed: the files of `deploy/`, and the static program in roots like those of images.

mod alerts;
mod files;
mod roots;
